//! Which form each operation takes on a GPU of CUDA, and why where none is native.

use super::choice::Chosen;
use super::lora::refusal;
use crate::types::forms::{Form, Operation};
use crate::types::options::LoraOptions;

/// The form that `operation` takes where attention is computed as `attention` says, adapters are as
/// in `lora`, and `is_bf16` says whether cuBLASLt multiplies.
pub(super) fn form(
    operation: Operation,
    attention: &Chosen,
    lora: Option<LoraOptions>,
    is_bf16: bool,
) -> Form {
    let own = || Form::native("own kernels");
    match operation {
        Operation::Attention => match attention {
            Chosen::Reference { why } => Form::reference(format!("T x T scores: {why}")),
            #[cfg(feature = "cudnn")]
            chosen @ Chosen::Cudnn { .. } => Form::native(format!(
                "{chosen}; batches that it has no plan for: own kernels"
            )),
            chosen => Form::native(chosen.to_string()),
        },
        Operation::EmbeddingNoise => Form::reference("noise from host memory"),
        Operation::Matmul if is_bf16 => Form::native("cuBLASLt"),
        Operation::Matmul | Operation::CrossEntropy if !is_bf16 => Form::reference("compute: f32"),
        Operation::CrossEntropy => Form::native("own kernels (in chunks of rows, around cuBLASLt)"),
        Operation::Cast => {
            Form::native("own kernels (f32 to bf16; reference of and to other types)")
        }
        Operation::Lora => lora_form(lora, is_bf16),
        Operation::Quantize => {
            Form::native("own kernels (from bf16 and f32; from other types: the CPU)")
        }
        Operation::Dequantize => Form::native(
            "own kernels (NF4 to bf16; reference to f32, in blocks of other than whole 32s, and of GGUF blocks)",
        ),
        Operation::Prefetch => {
            Form::native("own kernels (NF4 in blocks of whole 32s; others wait for their product)")
        }
        _ => own(),
    }
}

/// The kernels take what adapters have in common; the rest is one adapter at a time.
fn lora_form(lora: Option<LoraOptions>, is_bf16: bool) -> Form {
    let why = |LoraOptions { rank, widths }: LoraOptions| {
        widths.into_iter().find_map(|width| refusal(rank, width))
    };
    match lora.and_then(why) {
        Some(why) => Form::reference(format!("one adapter at a time: {why}")),
        None if is_bf16 => Form::native(
            "own kernels (backward without dropout, and unlike masks: one adapter at a time)",
        ),
        None => Form::Composed,
    }
}
