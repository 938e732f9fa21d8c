//! The constants that a base computes with beside its weights. The fingerprint of an adapter tells
//! weights apart, but a `config.json` with another `rope_theta` has the same weights.
//!
//! They are recorded as numbers that mean the same in every format, such as the angles that follow
//! from rotary settings, so that a GGUF file of the base is known again.

use std::collections::BTreeMap;
use std::path::Path;

use qlora_planner::{Activation, EmbeddingScale, LayerRope, ModelShape};

use super::files;
use crate::model::{angles, switch};
use crate::{Error, Result, partial};

/// The file of an adapter that holds them.
pub(crate) const CONSTANTS: &str = "training_base.json";
/// GGUF files hold constants in 32 bits.
const ALIKE: f64 = 1e-5;

/// Numbers by what a person knows them as.
type Constants = BTreeMap<String, Vec<f64>>;

/// Records those of `shape` beside the adapter in `folder`.
pub(super) fn save(shape: &ModelShape, folder: &Path) -> Result<()> {
    let path = folder.join(CONSTANTS);
    let text = serde_json::to_string(&of(shape)).map_err(|e| unreadable(folder, &e))?;
    partial::write(&path, format!("{text}\n").as_bytes()).map_err(Error::io(path))
}

/// What differs between the base of the adapter in `folder` and a model of `shape`; nothing where
/// the adapter does not say.
///
/// # Errors
/// The record is there and cannot be read.
pub(super) fn differing(folder: &Path, shape: &ModelShape) -> Result<Vec<String>> {
    let Some(text) = files::text(folder, CONSTANTS)? else {
        return Ok(Vec::new());
    };
    let recorded: Constants = serde_json::from_str(&text).map_err(|e| unreadable(folder, &e))?;
    let own = of(shape);
    // What only one of two versions knows says nothing.
    let both = own
        .into_iter()
        .filter_map(|(name, here)| Some((recorded.get(&name)?.clone(), here, name)));
    Ok(both
        .filter(|(there, here, _)| !are_alike(there, here))
        .map(|(there, here, name)| match (&there[..], &here[..]) {
            ([there], [here]) => format!("{name} ({there}, here {here})"),
            _ => name,
        })
        .collect())
}

fn are_alike(there: &[f64], here: &[f64]) -> bool {
    let alike = |(a, b): (&f64, &f64)| (a - b).abs() <= ALIKE * a.abs().max(b.abs());
    there.len() == here.len() && there.iter().zip(here).all(alike)
}

fn unreadable(folder: &Path, fault: &serde_json::Error) -> Error {
    Error::Adapter {
        path: folder.into(),
        fault: format!("has an unreadable {CONSTANTS}: {fault}"),
    }
}

fn of(shape: &ModelShape) -> Constants {
    let form = &shape.form;
    let embedding = match form.embedding_scale {
        None => 1.0,
        Some(EmbeddingScale::RootOfHidden) => (shape.hidden as f64).sqrt(),
        Some(EmbeddingScale::Factor(factor)) => factor,
    };
    let score = (shape.head_dim as f64).sqrt().recip();
    let activation = match form.activation {
        Activation::Silu => 0.0,
        Activation::GeluTanh => 1.0,
    };
    let caps = [form.score_cap, form.logit_cap].map(|cap| cap.unwrap_or(0.0));
    let all = [
        ("the number of heads", vec![shape.heads as f64]),
        ("the number of key/value heads", vec![shape.kv_heads as f64]),
        ("rms_norm_eps", vec![shape.norm_epsilon]),
        ("the activation", vec![activation]),
        ("rotary angles (rope_theta, rope_scaling)", rotary(shape)),
        ("rotary layers", layers(shape, rotary_kind)),
        ("windows", layers(shape, window)),
        ("the scale of embeddings", vec![embedding]),
        (
            "the scale of scores",
            vec![form.score_scale.unwrap_or(score)],
        ),
        (
            "the scale of residuals",
            vec![form.residual_scale.unwrap_or(1.0)],
        ),
        ("the scale of logits", vec![form.logit_scale.unwrap_or(1.0)]),
        ("soft caps", caps.to_vec()),
    ];
    all.map(|(name, numbers)| (name.to_owned(), numbers)).into()
}

/// Inverse frequencies and the factor of each kind of rotary embedding; of LongRoPE, both sets.
fn rotary(shape: &ModelShape) -> Vec<f64> {
    let short = angles(shape, switch(shape).unwrap_or(shape.max_positions));
    let long = switch(shape).map(|from| angles(shape, from + 1));
    let numbers = |kind: qlora_kernels::RopeAngles| {
        let factor = f64::from(kind.factor);
        let frequencies = kind.inv_freq.into_iter().map(f64::from);
        frequencies.chain([factor]).collect::<Vec<_>>()
    };
    short
        .into_iter()
        .chain(long.into_iter().flatten())
        .flat_map(|(_, kind)| numbers(kind))
        .collect()
}

fn layers(shape: &ModelShape, of: fn(&ModelShape, usize) -> f64) -> Vec<f64> {
    (0..shape.layers).map(|layer| of(shape, layer)).collect()
}

fn rotary_kind(shape: &ModelShape, layer: usize) -> f64 {
    match shape.layer(layer).rope {
        LayerRope::Global => 0.0,
        LayerRope::Local => 1.0,
        LayerRope::Absent => 2.0,
    }
}

/// 0 where each token sees all before it.
fn window(shape: &ModelShape, layer: usize) -> f64 {
    let window = shape.layer(layer).window;
    window
        .filter(|&window| window < shape.max_positions)
        .map_or(0.0, |window| window as f64)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use qlora_planner::RopeScaling;

    use super::*;

    type Change = fn(&mut ModelShape);

    fn shape() -> ModelShape {
        let entry = qlora_planner::find("smollm2-135m-instruct").expect("a model");
        entry.shape
    }

    #[test]
    fn constants_of_another_format_are_the_same_and_others_are_named() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        assert_eq!(differing(folder, &shape()).expect("nothing"), [""; 0]);
        save(&shape(), folder).expect("a record");
        let differ = |change: Change| {
            let mut shape = shape();
            change(&mut shape);
            differing(folder, &shape).expect("a record")
        };
        // As a GGUF file has them.
        let same: [Change; 3] = [
            |shape| shape.norm_epsilon = f64::from(shape.norm_epsilon as f32),
            |shape| {
                shape.rope_scaling = Some(RopeScaling::Divisors(vec![1.0; shape.head_dim / 2]));
            },
            |shape| shape.tied_embeddings = !shape.tied_embeddings,
        ];
        for change in same {
            assert_eq!(differ(change), [""; 0]);
        }
        let other: [(Change, &str); 6] = [
            (|shape| shape.norm_epsilon = 1e-6, "rms_norm_eps"),
            (|shape| shape.rope_theta *= 2.0, "rope_theta"),
            (
                |shape| shape.rope_scaling = Some(RopeScaling::Linear { factor: 2.0 }),
                "rope_scaling",
            ),
            (|shape| shape.heads *= 2, "the number of heads"),
            (|shape| shape.sliding_window = Some(64), "windows"),
            (
                |shape| shape.form.activation = Activation::GeluTanh,
                "the activation",
            ),
        ];
        for (change, name) in other {
            let named = differ(change);
            assert!(named.len() == 1 && named[0].contains(name), "{named:?}");
        }
        fs::write(folder.join(CONSTANTS), "{").expect("a file");
        let fault = differing(folder, &shape()).expect_err("a fault");
        assert!(fault.to_string().contains(CONSTANTS), "{fault}");
        fs::write(folder.join(CONSTANTS), b"{\0}\0").expect("a file");
        let fault = differing(folder, &shape()).expect_err("a fault");
        assert!(fault.to_string().contains("UTF-16"), "{fault}");
        assert_eq!(fault.code().id(), "Q0512", "{fault}");
    }
}
