//! What the CPU says of forms that depend on their input: its own words, which no other backend has.

use qlora_kernels::Backend;
use qlora_kernels::types::forms::Operation;

use crate::fixture::{cpu, in_bf16};

/// What a form says of its input holds: of GGUF blocks and floats candle dequantizes, and the loss
/// is a composition.
#[test]
fn forms_that_depend_on_their_input_say_both() {
    let said = |backend: &dyn Backend, operation| {
        let forms = backend.forms();
        forms.of(operation).expect("a form").to_string()
    };
    for backend in in_bf16().map(|(_, backend)| backend).chain([cpu()]) {
        let dequantize = said(&*backend, Operation::Dequantize);
        assert!(
            dequantize.contains("NF4") && dequantize.contains("reference of GGUF blocks"),
            "{dequantize}"
        );
        let loss = said(&*backend, Operation::CrossEntropy);
        assert!(loss.contains("chunks of rows"), "{loss}");
    }
    let loss = said(&*cpu(), Operation::CrossEntropy);
    assert!(
        loss.starts_with("reference") && loss.contains("losses without gradients: f32 kernels"),
        "{loss}"
    );
}
