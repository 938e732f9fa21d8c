//! What the planner knows of each kind of device: one row of data a kind.

use qlora_config::DeviceKind;

/// How a device's allocator rounds a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffers {
    Exact,
    /// candle takes its buffers on a Mac from a pool of powers of two.
    PowersOfTwo,
}

impl Buffers {
    /// Bytes of a buffer for a tensor of `bytes`.
    pub fn hold(self, bytes: usize) -> u64 {
        match self {
            Self::Exact => bytes as u64,
            Self::PowersOfTwo => bytes.next_power_of_two() as u64,
        }
    }
}

/// How a step runs, which decides what it holds at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepForm {
    /// Our operations on the CPU.
    Cpu,
    /// Our kernels and cuBLASLt.
    Cuda,
    /// candle's operations on Metal.
    Metal,
}

/// Sizes of heads for which a device computes attention without the scores of every pair of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlashHeads {
    All,
    /// These; under a soft cap and in a window too.
    Of(&'static [usize]),
    None,
}

impl FlashHeads {
    pub fn covers(self, head_dim: usize) -> bool {
        match self {
            Self::All => true,
            Self::Of(sizes) => sizes.contains(&head_dim),
            Self::None => false,
        }
    }
}

/// Sizes of heads for which a device of `kind` has flash attention.
pub fn flash_heads(kind: DeviceKind) -> FlashHeads {
    Device::of(kind).flash_heads
}

/// A kind of device.
#[derive(Debug)]
pub(crate) struct Device {
    /// Bytes of an element of an activation.
    pub element: usize,
    pub buffers: Buffers,
    /// Host memory is apart from the device's, so block inputs and the embedding can be offloaded
    /// to it.
    pub offloads: bool,
    /// Recomputation is dear enough to save what free memory holds.
    pub fills_memory: bool,
    /// Frozen weights may be held dequantized where memory is left.
    pub holds_dequantized: bool,
    /// For heads of other sizes the scores of a sequence are held whole.
    pub flash_heads: FlashHeads,
    /// The adapters' inner results and the norms' sums are saved beside the activations.
    pub saves_sums: bool,
    /// Rows of logits that are held at one time, and those of a run that saves memory.
    pub logit_rows: (usize, usize),
    /// Bits of an element of the embedding and the output layer of a GGUF file.
    pub gguf_table_bits: f64,
    /// Bytes of the program, its libraries and the device's context.
    pub overhead: u64,
    pub step: StepForm,
}

impl Device {
    /// The row of `kind`; a CPU's for [`DeviceKind::Any`].
    pub fn of(kind: DeviceKind) -> &'static Self {
        match kind {
            DeviceKind::Cuda => &CUDA,
            DeviceKind::Metal => &METAL,
            DeviceKind::Cpu | DeviceKind::Any => &CPU,
        }
    }
}

/// Rows of logits that are enough for a product of a GPU to fill it.
const FULL_LOGIT_ROWS: usize = 1024;
const LOGIT_ROWS: usize = 256;

static CPU: Device = Device {
    element: 4,
    buffers: Buffers::Exact,
    offloads: false,
    fills_memory: false,
    holds_dequantized: false,
    flash_heads: FlashHeads::All,
    saves_sums: false,
    logit_rows: (LOGIT_ROWS, LOGIT_ROWS),
    // Tables are often kept at 6 to 8 bits.
    gguf_table_bits: 8.5,
    overhead: 80 << 20,
    step: StepForm::Cpu,
};

static METAL: Device = Device {
    element: 2,
    buffers: Buffers::PowersOfTwo,
    fills_memory: true,
    flash_heads: FlashHeads::None,
    saves_sums: true,
    step: StepForm::Metal,
    ..CPU
};

static CUDA: Device = Device {
    element: 2,
    offloads: true,
    fills_memory: true,
    holds_dequantized: true,
    // Those of our kernels. cuDNN adds none: it is held against them.
    flash_heads: FlashHeads::Of(&[16, 32, 48, 64, 80, 96, 128, 256]),
    saves_sums: true,
    logit_rows: (FULL_LOGIT_ROWS, LOGIT_ROWS),
    gguf_table_bits: 16.0,
    overhead: 700 << 20,
    step: StepForm::Cuda,
    ..CPU
};
