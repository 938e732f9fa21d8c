//! The backends, tensors on them, and how close their results are.

use std::sync::{Arc, Mutex, Once};

use candle_core::{DType, Device, Tensor};
use qlora_kernels::types::attention::CUDA_HEADS;
use qlora_kernels::types::options::{AttentionOptions, Compute, Options, WantedAttention};
use qlora_kernels::{AttentionShape, Backend, Instructions, Result, backend};
use qlora_testkit::skip;
use qlora_testkit::tensors::elements;

use crate::instructions;
pub use crate::matrix::Mat;

/// One step of bf16 behind the largest value's first digit.
pub const STEP: f64 = 1.0 / 128.0;

/// How far results may be from what is wanted: the largest error over the largest value, by what a
/// backend computes in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The reference forms and a CPU, in `f32`.
    pub f32: f64,
    /// A CPU whose products are in bf16.
    pub bf16: f64,
    /// A GPU, whose tensors are in bf16.
    pub gpu: f64,
}

/// For results of which nothing else is known.
pub const LIMITS: Limits = Limits {
    f32: 1e-5,
    bf16: 1e-2,
    gpu: 2e-2,
};

/// For what is moved and not computed.
pub const EXACT: Limits = Limits {
    f32: 0.0,
    bf16: 0.0,
    gpu: 0.0,
};

impl Limits {
    /// [`LIMITS`], but for a GPU: so many steps of bf16.
    pub const fn steps(steps: f64) -> Self {
        Self {
            gpu: steps * STEP,
            ..LIMITS
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    Bf16,
    Gpu,
}

/// GPUs that are open and that no test uses. An open one keeps the workspace of its products until
/// the program ends: if each body opened one, the last tests would find no memory.
static IDLE: Mutex<Vec<Device>> = Mutex::new(Vec::new());

/// A GPU that no other test uses meanwhile.
struct OpenGpu(Device);

impl OpenGpu {
    fn take() -> std::result::Result<Self, String> {
        let idle = IDLE.lock().expect("nothing fails under it").pop();
        idle.map_or_else(|| backend::open_cuda(0), Ok).map(Self)
    }
}

impl Drop for OpenGpu {
    /// What a test that failed has left on its GPU troubles no other test.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let mut idle = IDLE.lock().expect("nothing fails under it");
            idle.push(self.0.clone());
        }
    }
}

/// A backend, and how exact it is.
pub struct Subject {
    pub name: String,
    pub backend: Arc<dyn Backend>,
    kind: Kind,
    /// Given back once the backend is gone.
    _gpu: Option<OpenGpu>,
}

impl Subject {
    fn new(name: impl Into<String>, backend: Arc<dyn Backend>, kind: Kind) -> Self {
        Self {
            name: name.into(),
            backend,
            kind,
            _gpu: None,
        }
    }

    /// A GPU for tests that run on nothing else, as `options` say.
    ///
    /// # Errors
    /// It does not have what is asked for.
    ///
    /// # Panics
    /// None opens.
    #[cfg(feature = "cudnn")]
    pub fn gpu(options: &Options) -> Result<Self> {
        let gpu = OpenGpu::take().expect("a GPU");
        Self::on_gpu(gpu, options)
    }

    fn on_gpu(gpu: OpenGpu, options: &Options) -> Result<Self> {
        let backend = backend::open(&gpu.0, options)?;
        Ok(Self {
            _gpu: Some(gpu),
            ..Self::new("a GPU of CUDA", backend, Kind::Gpu)
        })
    }

    pub fn is_gpu(&self) -> bool {
        self.kind == Kind::Gpu
    }

    /// Whether it can compute what takes candle's kernels: the emulated GPU has none of them.
    pub fn has_candles_kernels(&self) -> bool {
        !(self.is_gpu() && is_emulated())
    }

    /// Whether all that it computes with is `f32`.
    pub fn is_in_f32(&self) -> bool {
        self.kind == Kind::F32
    }

    /// What `limits` say of this backend.
    pub fn limit(&self, limits: Limits) -> f64 {
        match self.kind {
            Kind::F32 => limits.f32,
            Kind::Bf16 => limits.bf16,
            Kind::Gpu => limits.gpu,
        }
    }

    /// In the element type of activations.
    pub fn tensor(&self, values: &Mat) -> Tensor {
        self.tensor_of(values, self.backend.dtype())
    }

    pub fn tensor_of(&self, values: &Mat, dtype: DType) -> Tensor {
        let there = |t: &Tensor| t.to_dtype(dtype)?.to_device(self.backend.device());
        there(&values.floats()).expect("a tensor")
    }

    #[track_caller]
    pub fn close(&self, what: &str, found: &Tensor, wanted: &Mat) {
        self.within(LIMITS, what, found, wanted);
    }

    /// Every element is the wanted one.
    #[track_caller]
    pub fn same(&self, what: &str, found: &Tensor, wanted: &Mat) {
        self.within(EXACT, what, found, wanted);
    }

    #[track_caller]
    pub fn within(&self, limits: Limits, what: &str, found: &Tensor, wanted: &Mat) {
        let found = elements(found);
        assert_eq!(found.len(), wanted.data.len(), "{what} on {}", self.name);
        let top = wanted.data.iter().fold(1e-30f64, |top, v| top.max(v.abs()));
        let errors = found
            .iter()
            .zip(&wanted.data)
            .map(|(&a, b)| (f64::from(a) - b).abs() / top);
        let worst = errors.fold(0f64, |worst, error| {
            if error.is_finite() {
                worst.max(error)
            } else {
                f64::INFINITY
            }
        });
        let limit = self.limit(limits);
        assert!(
            worst <= limit,
            "{what} on {}: {worst:.1e} above {limit:.1e}",
            self.name
        );
    }

    /// A number that is added up, and not rounded to the type of activations.
    #[track_caller]
    pub fn near(&self, limits: Limits, what: &str, found: f64, wanted: f64) {
        let limit = self.limit(limits);
        assert!(
            (found - wanted).abs() <= limit * wanted.abs(),
            "{what} on {}: {found} and {wanted}, further apart than {limit:.1e}",
            self.name
        );
    }
}

/// Every backend that opens here, for `attention` where it is given. What must be there fails the
/// test where it is not: both forms in `f32`, the CPU on all instructions that it has, the emulated
/// GPU where it is asked for.
fn subjects(attention: Option<AttentionOptions>) -> Vec<Subject> {
    let options = |compute| Options {
        compute,
        attention,
        ..Options::default()
    };
    let mut subjects = vec![
        Subject::new(
            "the reference forms",
            backend::reference(&Device::Cpu, DType::F32),
            Kind::F32,
        ),
        Subject::new(
            "a CPU in f32",
            backend::open(&Device::Cpu, &options(Compute::F32)).expect("a CPU"),
            Kind::F32,
        ),
    ];
    let in_bf16 = |how: Instructions| {
        let cpu = backend::on_instructions(how).expect("what the CPU has");
        Subject::new(how.words(), cpu, Kind::Bf16)
    };
    subjects.extend(instructions::every().into_iter().map(in_bf16));
    subjects.extend(gpu(&options(Compute::Auto)));
    subjects
}

/// A GPU, which may be missing only where the emulated one is not asked for. A program that is
/// built for GPUs tells that it saw none, once.
fn gpu(options: &Options) -> Option<Subject> {
    static TOLD: Once = Once::new();
    match OpenGpu::take() {
        Ok(gpu) => Some(Subject::on_gpu(gpu, options).expect("a GPU")),
        Err(fault) => {
            assert!(!is_emulated(), "QLORA_EMULATED_GPU is set: {fault}");
            if cfg!(feature = "cuda") {
                TOLD.call_once(|| skip(&format!("no GPU opens: {fault}")));
            }
            None
        }
    }
}

/// Whether the emulated GPU is asked for.
pub fn is_emulated() -> bool {
    std::env::var_os("QLORA_EMULATED_GPU").is_some()
}

/// Runs the body of a test on every backend.
pub fn on_every(body: impl Fn(&Subject) -> Result<()>) {
    on_each(subjects(None), body);
}

/// [`on_every`] with backends that are opened for attention of `shape`, as `wanted` asks. The
/// emulated GPU is left out where our kernels do not have the heads: it has none of candle's, in
/// which the reference form is computed.
pub fn on_every_for(
    shape: AttentionShape,
    wanted: WantedAttention,
    body: impl Fn(&Subject) -> Result<()>,
) {
    let attention = AttentionOptions {
        shape,
        wanted,
        length: 512,
    };
    let mut subjects = subjects(Some(attention));
    if !CUDA_HEADS.contains(&shape.head_dim) {
        subjects.retain(Subject::has_candles_kernels);
    }
    on_each(subjects, body);
}

fn on_each(subjects: Vec<Subject>, body: impl Fn(&Subject) -> Result<()>) {
    for subject in subjects {
        if let Err(fault) = body(&subject) {
            panic!("on {}: {fault}", subject.name)
        }
    }
}
