//! Gradients, tensor by tensor: those of `f32` against PEFT's numbers, those of bf16 by direction
//! and length.
//!
//! The loss and the norm of all gradients together do not show that one tensor's is lost: the
//! queries' and keys' are a few hundredths of the whole.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use qlora_trainer::model::Batch;
use qlora_trainer::step::Trainer;

use crate::{Recorded, decoder, largest_difference, tensors, trainer};

/// bf16 keeps 8 bits, so that rounding moves an input of a product by up to 1/256. A gradient that
/// went through a few such products is off by a few hundredths of its length in no particular
/// direction, which leaves a cosine above 0.99 (an error of 0.14). A gradient that is lost, of
/// another site, transposed or of the wrong sign falls far below.
const COSINE: f64 = 0.99;

/// Errors in no particular direction hardly change a length; a factor that is forgotten, such as a
/// scale or the number of micro-batches, does.
const NORM: f64 = 0.05;

/// Share of the whole gradient's norm up to which a tensor's has no direction to compare: that of
/// A while B is zero. The smallest that PEFT recorded besides is a hundredth.
const NEGLIGIBLE: f64 = 1e-4;

/// Gradients of `micro` at the trainer's adapters, in host memory, under PEFT's names.
fn gradients(trainer: &Trainer<'_>, micro: &[Batch]) -> Vec<(String, Tensor)> {
    let (_, gradients) = trainer.gradients(0, micro).expect("gradients");
    let mut named = Vec::new();
    for (site, gradient) in trainer.adapters.sites.iter().zip(gradients.entries()) {
        let gradient = gradient.as_ref().expect("a gradient for every site");
        for (which, tensor) in ["lora_A", "lora_B", "lora_magnitude_vector"]
            .iter()
            .zip(gradient.tensors())
        {
            let tensor = tensor.to_device(&Device::Cpu).expect("a copy");
            named.push((format!("{}.{which}.weight", site.module_path()), tensor));
        }
    }
    named
}

/// Those that PEFT recorded, before clipping.
fn first_of(folder: &str) -> HashMap<String, Tensor> {
    tensors(&format!("{folder}/step1_grads_before_clip.safetensors"))
}

/// The first gradients in `f32` are those of the recorded run in `folder`.
pub fn first_agree(trainer: &Trainer<'_>, micro: &[Batch], folder: &str) {
    let (found, wanted) = (gradients(trainer, micro), first_of(folder));
    assert_eq!(found.len(), wanted.len(), "{folder}");
    let mut largest = 0f32;
    for (name, ours) in &found {
        let difference = largest_difference(ours, &wanted[name]);
        assert!(difference < 1e-5, "{folder}, {name}: {difference}");
        largest = largest.max(difference);
    }
    println!("parity: {folder}, gradients of the first step {largest:.1e}");
}

/// The first gradients in bf16 are those of the recorded run in `folder`, within their rounding.
pub fn first_agree_within_bf16(trainer: &Trainer<'_>, micro: &[Batch], folder: &str) {
    let what = format!("{folder} in bf16, gradients of the first step");
    agree_within_bf16(&what, &gradients(trainer, micro), &first_of(folder));
}

/// The gradients of a trainer in bf16 after its last step are those that `exact`, the same run in
/// `f32` on the CPU, has over the same adapters.
///
/// PEFT begins with a B of zero, over which A has no gradient: only here the gradients of A are
/// compared. Those in `f32` are held to PEFT's by the adapters that they lead to.
pub fn last_agree_within_bf16(
    trained: &Trainer<'_>,
    micro: &[Batch],
    exact: &Recorded,
    base: &str,
) {
    let mut adapters = trained.adapters.clone();
    for factors in &mut adapters.factors {
        *factors = factors
            .map(|_, tensor| Ok(tensor.to_device(&Device::Cpu)?))
            .expect("a copy");
    }
    let decoder = decoder(base, &exact.config);
    let wanted = gradients(&trainer(&decoder, adapters, &exact.config), micro);
    let what = format!("{} in bf16, gradients after the last step", exact.folder);
    agree_within_bf16(
        &what,
        &gradients(trained, micro),
        &wanted.into_iter().collect(),
    );
}

fn agree_within_bf16(what: &str, found: &[(String, Tensor)], wanted: &HashMap<String, Tensor>) {
    let found = compare(found, wanted);
    let compared = || found.iter().filter(|c| !c.is_negligible());
    let turned = compared().min_by(|a, b| a.cosine.total_cmp(&b.cosine));
    let stretched = compared().max_by(|a, b| a.off().total_cmp(&b.off()));
    let (turned, stretched) = (
        turned.expect("a gradient that is not negligible"),
        stretched.expect("a gradient that is not negligible"),
    );
    println!(
        "parity: {what}: of {} tensors, {} of them negligible, the smallest cosine {:.6} ({}), the largest change of a norm {:.1e} ({})",
        found.len(),
        found.len() - compared().count(),
        turned.cosine,
        turned.name,
        stretched.off(),
        stretched.name
    );
    let faults: Vec<String> = found.iter().filter_map(Comparison::fault).collect();
    assert!(faults.is_empty(), "{what}: {faults:#?}");
}

/// A tensor's gradient and the one that it should be.
struct Comparison {
    name: String,
    /// Of the angle between them; 0 where one of them is zero.
    cosine: f64,
    /// The norm of ours over theirs; infinite where only theirs is zero.
    ratio: f64,
    /// Norms of both over that of the whole gradient that is wanted.
    shares: [f64; 2],
}

impl Comparison {
    fn is_negligible(&self) -> bool {
        self.shares[1] <= NEGLIGIBLE
    }

    fn off(&self) -> f64 {
        (self.ratio - 1.0).abs()
    }

    fn fault(&self) -> Option<String> {
        let Self {
            name,
            cosine,
            ratio,
            shares: [ours, theirs],
        } = self;
        let is_wrong = if self.is_negligible() {
            *ours > 2.0 * NEGLIGIBLE
        } else {
            *cosine < COSINE || self.off() > NORM
        };
        is_wrong.then(|| {
            format!(
                "{name}: cosine {cosine:.6}, norms {ratio:.4}, shares of the whole {ours:.1e} and {theirs:.1e}"
            )
        })
    }
}

fn compare(found: &[(String, Tensor)], wanted: &HashMap<String, Tensor>) -> Vec<Comparison> {
    let mut names: Vec<_> = found.iter().map(|(name, _)| name).collect();
    let mut others: Vec<_> = wanted.keys().collect();
    names.sort();
    others.sort();
    assert_eq!(names, others);
    let squares = wanted.values().map(|t| norm(&numbers(t)).powi(2));
    let whole = squares.sum::<f64>().sqrt();
    let one = |(name, ours): &(String, Tensor)| {
        let theirs = &wanted[name];
        assert_eq!(ours.dims(), theirs.dims(), "{name}");
        let (ours, theirs) = (numbers(ours), numbers(theirs));
        assert!(ours.iter().all(|v| v.is_finite()), "{name}");
        let product: f64 = ours.iter().zip(&theirs).map(|(a, b)| a * b).sum();
        let norms = [norm(&ours), norm(&theirs)];
        Comparison {
            name: name.clone(),
            cosine: product / (norms[0] * norms[1]).max(f64::MIN_POSITIVE),
            ratio: norms[0] / norms[1].max(f64::MIN_POSITIVE),
            shares: norms.map(|norm| norm / whole),
        }
    };
    found.iter().map(one).collect()
}

fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|v| v * v).sum::<f64>().sqrt()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .and_then(|t| t.flatten_all()?.to_vec1())
        .expect("numbers")
}

/// What the loss and the norm of the whole do not show is shown here.
#[test]
fn a_gradient_that_is_lost_turned_or_scaled_is_noticed() {
    let wanted = first_of("qlora_run/attn_r8");
    let faults_with = |place: &str, change: &dyn Fn(&Tensor) -> candle_core::Result<Tensor>| {
        let found: Vec<(String, Tensor)> = wanted
            .iter()
            .map(|(name, tensor)| {
                let tensor = if name.contains(place) {
                    change(tensor)
                } else {
                    Ok(tensor.clone())
                };
                (name.clone(), tensor.expect("a gradient"))
            })
            .collect();
        let found = compare(&found, &wanted);
        found.iter().filter_map(Comparison::fault).count()
    };
    let sites = 2;
    let b_of_q = "q_proj.lora_B";
    assert_eq!(faults_with(b_of_q, &|t| Ok(t.clone())), 0);
    assert_eq!(faults_with(b_of_q, &|t| t.affine(1.01, 0.0)), 0);
    assert_eq!(faults_with(b_of_q, &Tensor::zeros_like), sites);
    assert_eq!(faults_with(b_of_q, &Tensor::neg), sites);
    assert_eq!(faults_with(b_of_q, &|t| t.affine(2.0, 0.0)), sites);
    assert_eq!(faults_with("k_proj.lora_A", &Tensor::ones_like), sites);
}
