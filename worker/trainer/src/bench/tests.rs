use std::collections::HashSet;

use qlora_kernels::types::forms::Operation;
use qlora_planner::{Activation, DecoderForm, EmbeddingScale, LayerForm, LayerRope, ModelShape};
use qlora_testkit::resolved;

use super::*;

/// A shape whose sizes all differ, with blocks of `layers`.
fn checkpoint(layers: usize, form: DecoderForm) -> Checkpoint {
    let shape = ModelShape {
        hidden: 64,
        layers,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        ffn: 192,
        vocabulary: 320,
        tied_embeddings: false,
        norm_epsilon: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: None,
        sliding_window: None,
        max_positions: 256,
        form,
    };
    Checkpoint::random(shape, 7)
}

fn figures(layers: usize, extent: Extent, set: &[&str]) -> Result<Figures> {
    figures_of(&checkpoint(layers, DecoderForm::default()), extent, set)
}

fn figures_of(checkpoint: &Checkpoint, extent: Extent, set: &[&str]) -> Result<Figures> {
    let common = [
        "model.base=tiny",
        "data.train=none",
        "data.max_seq_len=32",
        "training.micro_batch_size=2",
    ];
    let config = resolved(&common, set);
    measure(&config, checkpoint, extent)
}

fn row<'a>(figures: &'a Figures, name: &str) -> &'a Timing {
    let found = figures.kernels.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no row `{name}` among {:?}", figures.kernels))
}

#[test]
fn every_operation_has_a_row_with_figures() -> Result<()> {
    let extent = Extent {
        length: 32,
        steps: Steps::Once,
        kernels: true,
        instructions: None,
    };
    for set in [
        &[][..],
        &["lora.target_modules=all-linear", "lora.dropout=0"],
        &["model.compute=f32"],
    ] {
        let figures = figures(3, extent, set)?;
        let computed: Vec<_> = figures
            .operations
            .iter()
            .map(|(operation, _)| operation)
            .collect();
        assert_eq!(computed, Operation::ALL);
        let matmul = figures
            .operations
            .of(Operation::Matmul)
            .map(ToString::to_string)
            .unwrap_or_default();
        assert_eq!(
            matmul.contains("reference"),
            set.contains(&"model.compute=f32"),
            "{matmul}"
        );
        let names: HashSet<&str> = figures
            .kernels
            .iter()
            .map(|row| row.name.as_str())
            .collect();
        assert_eq!(names.len(), figures.kernels.len(), "{:?}", figures.kernels);
        for row in &figures.kernels {
            let all = [row.milliseconds, row.work, row.rate, row.share];
            assert!(
                all.iter().all(|figure| figure.is_finite() && *figure > 0.0),
                "{row:?}"
            );
            assert_eq!(
                row.step_milliseconds,
                row.milliseconds * row.calls as f64,
                "{row:?}"
            );
        }
        for projection in ["q", "k, v", "o", "gate, up", "down"] {
            for way in ["forward", "backward"] {
                row(&figures, &format!("{projection} product {way}"));
            }
        }
        for matrix in ["q", "k", "v", "o", "gate", "up", "down"] {
            row(&figures, &format!("{matrix} dequantize"));
        }
        for way in ["forward", "backward"] {
            for operation in [
                "attention",
                "rotary q, k",
                "RMSNorm",
                "SwiGLU",
                "final RMSNorm",
            ] {
                row(&figures, &format!("{operation} {way}"));
            }
            row(&figures, &format!("output layer {way}, 62 rows"));
        }
        for moments in ["AdamW, f32 moments", "AdamW, 8-bit moments"] {
            row(&figures, moments);
        }
    }
    Ok(())
}

#[test]
fn rows_are_those_of_the_decoder() -> Result<()> {
    let extent = Extent {
        length: 32,
        steps: Steps::Once,
        kernels: true,
        instructions: None,
    };
    let form = DecoderForm {
        qkv_bias: true,
        unit_offset: true,
        activation: Activation::GeluTanh,
        embedding_scale: Some(EmbeddingScale::RootOfHidden),
        logit_cap: Some(30.0),
        ..DecoderForm::default()
    };
    let gemma = figures_of(&checkpoint(3, form), extent, &[])?;
    for name in ["embedding scale", "GeGLU forward", "GeGLU backward"] {
        row(&gemma, name);
    }
    for name in ["q bias", "k bias", "v bias"] {
        assert_eq!(
            row(&gemma, name).calls,
            row(&gemma, "q product forward").calls
        );
    }
    let windowed = LayerForm {
        window: Some(8),
        rope: LayerRope::Global,
    };
    let absent = LayerForm {
        window: None,
        rope: LayerRope::Absent,
    };
    let form = DecoderForm {
        fused: true,
        head_norms: true,
        norms_after: true,
        rotary_dim: Some(12),
        layers: vec![windowed, absent, windowed],
        ..DecoderForm::default()
    };
    for again in [true, false] {
        let set = [
            &format!("training.gradient_checkpointing={again}"),
            "lora.target_modules=all-linear",
        ];
        let other = figures_of(&checkpoint(3, form.clone()), extent, &set)?;
        let runs = if again { 6 } else { 3 };
        for (name, calls) in [
            ("qkv product forward", runs),
            ("qkv taken apart", runs),
            ("qkv put together", 3),
            ("qkv adapters backward, dA", 3),
            ("gate_up product forward", runs),
            ("gate_up product backward", 3),
            ("gate_up put together", 3),
            ("down product forward", runs),
            ("q, k norms forward", 6),
            ("q, k norms backward", 3),
            ("norms after forward", 12),
            ("norms after backward", 6),
            ("residual add", 9),
            // Two of three blocks rotate, and in both passes: they keep what is not rotated yet.
            ("rotary q, k forward", 4),
            ("rotary q, k backward", 2),
            ("attention backward, window of 8", 2),
            ("attention backward, no window", 1),
        ] {
            assert_eq!(row(&other, name).calls, calls, "{name}");
        }
        let names: Vec<_> = other.kernels.iter().map(|row| row.name.as_str()).collect();
        assert!(
            names.iter().all(|name| !name.starts_with("q product")),
            "{names:?}"
        );
    }
    let llama = figures(3, extent, &[])?;
    let has = |part: &str| llama.kernels.iter().any(|row| row.name.contains(part));
    assert!(has("SwiGLU") && !has("GeGLU") && !has("bias") && !has("embedding scale"));
    Ok(())
}

#[test]
fn rows_say_how_often_a_step_runs_them() -> Result<()> {
    let extent = Extent {
        length: 32,
        steps: Steps::Once,
        kernels: true,
        instructions: None,
    };
    let kept = figures(3, extent, &["training.gradient_checkpointing=false"])?;
    assert_eq!(row(&kept, "k, v product forward").calls, 6);
    assert_eq!(row(&kept, "attention forward").calls, 3);
    let again = figures(3, extent, &["training.gradient_checkpointing=true"])?;
    assert_eq!(row(&again, "k, v product forward").calls, 12);
    assert_eq!(row(&again, "down product forward").calls, 3);
    assert_eq!(row(&again, "attention backward").calls, 3);
    let names = |figures: &Figures| {
        figures
            .kernels
            .iter()
            .map(|row| row.name.clone())
            .collect::<Vec<_>>()
    };
    let places = names(&kept);
    let place = |name: &str| {
        places
            .iter()
            .position(|found| found == name)
            .expect("a row")
    };
    let order = [
        "q quantize",
        "embedding gather",
        "q product forward",
        "attention forward",
        "down product forward",
        "output layer forward, 62 rows",
        "down product backward",
        "attention backward",
        "q product backward",
        "gradient norm",
    ];
    assert!(
        order.windows(2).all(|pair| place(pair[0]) < place(pair[1])),
        "{places:?}"
    );
    Ok(())
}

#[test]
fn one_step_is_measured_without_another_before_or_after_it() -> Result<()> {
    let once = figures(
        2,
        Extent {
            length: 32,
            steps: Steps::Once,
            kernels: false,
            instructions: None,
        },
        &[],
    )?;
    assert!(
        !once.warmed_up && once.steps == 1 && once.seconds.is_none() && once.kernels.is_empty()
    );
    assert!(once.seconds_per_step > 0.0 && once.tokens_per_step == 64 && once.layers == 2);
    let warm = figures(
        2,
        Extent {
            length: 32,
            steps: Steps::Warm(2),
            kernels: false,
            instructions: None,
        },
        &[],
    )?;
    assert!(warm.warmed_up && warm.steps == 2 && warm.seconds.is_some());
    // The losses are those of the first step and of the third, after two updates.
    assert!(
        once.loss != warm.loss && (once.loss - (320f64).ln()).abs() < 1.0,
        "{} {}",
        once.loss,
        warm.loss
    );
    Ok(())
}
