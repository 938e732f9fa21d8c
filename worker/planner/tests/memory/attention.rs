//! Heads that a device has flash attention for, and heads whose scores it holds whole.

use qlora_config::DeviceKind::{Cpu, Cuda, Metal};
use qlora_planner::{DeviceBudget, ModelShape, dense_attention, fit, plan};

use crate::fixture::{MIB, config, mistral};

const GIB: u64 = 1 << 30;

fn of_heads(head_dim: usize) -> ModelShape {
    ModelShape {
        head_dim,
        ..mistral()
    }
}

/// Four tensors of 32 x T x T, and six of T x 32 E, in `f32`.
fn scores(tokens: u64, head_dim: u64) -> u64 {
    4 * 4 * 32 * tokens * tokens + 6 * 4 * tokens * 32 * head_dim
}

#[test]
fn heads_with_kernels_are_flash_on_cuda_and_others_hold_their_scores() {
    let tokens = 2048;
    let config = config(tokens as usize, &[]);
    for (head_dim, held) in [
        (64, 0),
        (80, 0),
        (96, 0),
        (128, 0),
        (256, 0),
        // 4 x 512 MiB, and 6 x 18 or 28 MiB.
        (72, 2156 * MIB),
        (112, 2216 * MIB),
    ] {
        let shape = of_heads(head_dim as usize);
        let dense = dense_attention(&shape, &config, Cuda).map_or(0, |dense| dense.bytes);
        assert_eq!(dense, held, "{head_dim}");
        assert!([0, scores(tokens, head_dim)].contains(&held), "{head_dim}");
        // For each token, in bf16: what a block holds, which is 2 D for the streams, 2 x 32 E and
        // 2 x 8 E for attention, and 2 F; and gradients of 2 F. In f32 the sums of 32 heads.
        let elements = 2 * 4096 + 80 * head_dim + 2 * 14_336 + 2 * 14_336;
        let block = tokens * (2 * elements + 4 * 32);
        // Two matrices of D x F are 224 MiB; cosines and sines are for 4,096 positions; cuBLASLt
        // works with 32 MiB.
        let wanted = block + held + 224 * MIB + 4096 * head_dim * 4 + 32 * MIB;
        assert_eq!(plan(&shape, &config, Cuda).scratch, wanted, "{head_dim}");
    }
}

#[test]
fn neither_a_window_nor_further_rows_change_what_scores_take() {
    let bytes = |shape: &ModelShape, set: &[&str]| {
        let config = config(4096, set);
        dense_attention(shape, &config, Cuda).map(|dense| dense.bytes)
    };
    let windowed = ModelShape {
        sliding_window: Some(512),
        ..of_heads(112)
    };
    let wanted = Some(scores(4096, 112));
    assert_eq!(bytes(&of_heads(112), &[]), wanted);
    assert_eq!(bytes(&windowed, &[]), wanted);
    let rows = ["training.micro_batch_size=4"];
    assert_eq!(bytes(&of_heads(112), &rows), wanted);
    let mut capped = of_heads(256);
    capped.form.score_cap = Some(50.0);
    assert_eq!(bytes(&capped, &[]), None);
}

#[test]
fn a_refusal_names_the_scores_and_the_ways_out() {
    let (shape, config) = (of_heads(112), config(32_768, &[]));
    let on = |kind| DeviceBudget {
        kind,
        bytes: 79 * GIB,
    };
    let fault = fit(&shape, &config, on(Cuda)).expect_err("one matrix of scores is 128 GiB");
    // 4 x 128 GiB, and 6 x 448 MiB.
    let held = fault.cause.as_ref().map(|dense| dense.bytes);
    assert_eq!(held, Some(512 * GIB + 2688 * MIB));
    let said = fault.to_string();
    for words in [
        "attention holds the scores of every pair of tokens, 514.6 GiB",
        "cuda has flash attention for heads of 16, 32, 48, 64, 80, 96, 128 and 256, and those of this model are of 112",
        "attention on cpu (resources.device) holds no scores, and cpu is much slower",
        "fits with data.max_seq_len: ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let shorter = fault.suggestions.last().expect("a way out");
    let length = shorter.strip_prefix("data.max_seq_len: ");
    let length = length.and_then(|length| length.parse().ok());
    let shorter = crate::fixture::config(length.expect("a length"), &[]);
    assert!(fit(&shape, &shorter, on(Cuda)).is_ok());
    assert!(fit(&of_heads(128), &config, on(Cuda)).is_ok());
}

#[test]
fn a_mac_holds_the_scores_of_all_heads_and_a_cpu_of_none() {
    let config = config(2048, &[]);
    for head_dim in [64, 112, 128] {
        let shape = of_heads(head_dim);
        assert_eq!(dense_attention(&shape, &config, Cpu), None);
        let said = dense_attention(&shape, &config, Metal).expect("scores");
        let said = said.to_string();
        assert!(said.contains("metal has no flash attention"), "{said}");
        assert_eq!(said.contains("cpu or cuda"), head_dim != 112, "{said}");
    }
}

#[test]
fn a_refusal_that_scores_do_not_decide_does_not_name_them() {
    let config = config(128, &[]);
    let budget = DeviceBudget {
        kind: Cuda,
        bytes: GIB,
    };
    let fault = fit(&of_heads(112), &config, budget).expect_err("the weights are more");
    assert!(dense_attention(&of_heads(112), &config, Cuda).is_some());
    assert_eq!(fault.cause, None, "{fault}");
}
