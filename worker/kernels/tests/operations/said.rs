//! What every backend says of its forms.

use qlora_kernels::types::forms::{Form, Operation};

use crate::fixture::on_every;

/// What a run logs. The reference forms claim no code of their own, a CPU names the instructions
/// that it multiplies on, and only a GPU copies ahead and away.
#[test]
fn every_backend_says_what_computes_each_operation() {
    on_every(|subject| {
        let forms = subject.backend.forms();
        let is_listed = |operation| forms.of(operation).is_some();
        assert!(Operation::ALL.into_iter().all(is_listed), "{forms}");
        let is_native = |operation| matches!(forms.of(operation), Some(Form::Native(_)));
        let product = forms.of(Operation::Matmul).map(ToString::to_string);
        match subject.name.as_str() {
            "the reference forms" => assert!(!Operation::ALL.into_iter().any(is_native), "{forms}"),
            "a CPU in f32" => assert!(
                !is_native(Operation::Matmul) && is_native(Operation::Attention),
                "{forms}"
            ),
            "a GPU of CUDA" => assert!(is_native(Operation::Matmul), "{forms}"),
            instructions => assert_eq!(product.as_deref(), Some(instructions), "{forms}"),
        }
        let is_unused = |operation| forms.of(operation) == Some(&Form::Unused);
        let unused: Vec<Operation> = Operation::ALL
            .into_iter()
            .filter(|o| is_unused(*o))
            .collect();
        let copies = [Operation::Prefetch, Operation::Offload];
        let is_on_gpu = subject.backend.device().is_cuda();
        let wanted = if is_on_gpu { &[][..] } else { &copies[..] };
        assert_eq!(unused, wanted, "{}", subject.name);
        Ok(())
    });
}

/// What a form says of its input holds: how it begins, and which inputs take another one or what it
/// is composed of.
#[test]
fn forms_that_depend_on_their_input_say_both() {
    use Operation::{Cast, CrossEntropy, Dequantize};
    let gpu = [
        (Cast, "own kernels", "reference of and to other types"),
        (Dequantize, "own kernels", "and of GGUF blocks"),
        (CrossEntropy, "own kernels", "around cuBLASLt"),
    ];
    let cpu = [
        (Dequantize, "", "NF4"),
        (Dequantize, "", "reference of GGUF blocks"),
        (CrossEntropy, "", "chunks of rows"),
    ];
    let alone = "losses without gradients: f32 kernels";
    let in_f32 = [&cpu[..], &[(CrossEntropy, "reference", alone)]].concat();
    on_every(|subject| {
        let forms = subject.backend.forms();
        let due = match subject.name.as_str() {
            "the reference forms" => &[][..],
            "a CPU in f32" => &in_f32,
            "a GPU of CUDA" => &gpu,
            _ => &cpu,
        };
        for &(operation, begin, words) in due {
            let said = forms.of(operation).expect("a form").to_string();
            assert!(
                said.starts_with(begin) && said.contains(words),
                "{words} on {}: {said}",
                subject.name
            );
        }
        Ok(())
    });
}
