//! A GPU, tensors on it, and processes that it is opened in.

use std::process::Command;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use qlora_kernels::types::options::{AttentionOptions, Options};
use qlora_kernels::{Backend, Result, backend};
pub use qlora_testkit::tensors::elements;
use qlora_testkit::tensors::spread;

/// A GPU, for any operation but the attention of a model.
pub fn gpu() -> Arc<dyn Backend> {
    open(&Options::default()).expect("a backend")
}

/// A GPU for the attention of a model.
pub fn gpu_for(attention: AttentionOptions) -> Result<Arc<dyn Backend>> {
    open(&Options {
        attention: Some(attention),
        ..Options::default()
    })
}

fn open(options: &Options) -> Result<Arc<dyn Backend>> {
    let device = backend::open_cuda(0).expect("a GPU: this test runs on nothing else");
    backend::open(&device, options)
}

/// The reference forms on the CPU, in bf16.
pub fn reference() -> Arc<dyn Backend> {
    backend::reference(&Device::Cpu, DType::BF16)
}

/// bf16 in host memory.
pub fn random(shape: (usize, usize), seed: usize) -> Result<Tensor> {
    Tensor::from_vec(spread(shape.0 * shape.1, seed, 2003), shape, &Device::Cpu)?
        .to_dtype(DType::BF16)
}

/// The same on the GPU.
pub fn on<const N: usize>(device: &Device, tensors: [&Tensor; N]) -> [Tensor; N] {
    tensors.map(|t| t.to_device(device).expect("a copy on the GPU"))
}

/// An ignored test of this program in a process of its own.
pub fn ignored(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--ignored", "--exact", "--nocapture", name]);
    command
}

/// What the process of `command` says as it fails.
pub fn refusal(mut command: Command) -> String {
    let output = command.output().expect("this program");
    assert!(!output.status.success());
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}
