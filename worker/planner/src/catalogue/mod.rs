//! Models that are known by name: where they come from and what shape they have.

mod entry;
mod models;

use qlora_config::{ModelConfig, Quantization, is_gguf_name, is_hub_name};

pub use self::entry::{CatalogueEntry, ModelFormat};

/// All known models.
pub fn catalogue() -> Vec<CatalogueEntry> {
    models::all()
}

/// How the weights of `model` are held, judged by its name: a `.gguf` file or a catalogue entry of
/// one keeps its blocks.
///
/// The worker judges by the file itself; the two differ only for a `.gguf` file that is not named
/// so.
pub fn held(model: &ModelConfig) -> Quantization {
    match model.quantization {
        Quantization::Auto if is_gguf(model) => Quantization::Gguf,
        Quantization::Auto => Quantization::Nf4,
        said => said,
    }
}

fn is_gguf(model: &ModelConfig) -> bool {
    let base = model.base.as_deref().unwrap_or_default();
    is_gguf_name(base)
        || find(base).is_some_and(|entry| matches!(entry.format, ModelFormat::Gguf { .. }))
}

/// The model called `name`, by catalogue name or repository.
pub fn find(name: &str) -> Option<CatalogueEntry> {
    catalogue()
        .into_iter()
        .find(|entry| entry.name == name || entry.repository == name)
}

/// The name by which every machine knows the model that a configuration calls `base`; none for a
/// path, which each machine has for itself.
pub fn name_everywhere(base: &str) -> Option<String> {
    match find(base) {
        Some(entry) => Some(entry.name.to_owned()),
        None => is_hub_name(base).then(|| base.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use qlora_config::{LoraConfig, TargetModule};

    use super::*;

    /// Parameters in billions, as the models' cards give them.
    #[test]
    fn models_have_the_parameters_that_they_are_published_with() {
        for (name, billions) in [
            ("llama-3.1-8b-instruct", 8.03),
            ("llama-3.2-1b-instruct", 1.24),
            ("llama-3.2-3b-instruct", 3.21),
            ("llama-3.3-70b-instruct", 70.6),
            ("mistral-7b-instruct", 7.25),
            ("mistral-nemo-instruct", 12.2),
            ("smollm2-135m-instruct", 0.135),
            ("smollm3-3b", 3.08),
            ("qwen2-0.5b-instruct", 0.49),
            ("qwen2-1.5b-instruct", 1.54),
            ("qwen2-7b-instruct", 7.62),
            ("qwen2.5-0.5b-instruct", 0.49),
            ("qwen2.5-1.5b-instruct", 1.54),
            ("qwen2.5-3b-instruct", 3.09),
            ("qwen2.5-7b-instruct", 7.62),
            ("qwen2.5-14b-instruct", 14.8),
            ("qwen2.5-32b-instruct", 32.8),
            ("qwen3-0.6b", 0.596),
            ("qwen3-1.7b", 1.72),
            ("qwen3-4b", 4.02),
            ("qwen3-4b-instruct-2507", 4.02),
            ("qwen3-8b", 8.19),
            ("qwen3-14b", 14.8),
            ("qwen3-32b", 32.8),
            ("phi-3-mini-4k-instruct", 3.82),
            ("phi-3.5-mini-instruct", 3.82),
            ("phi-4", 14.7),
            ("phi-4-mini-instruct", 3.84),
            ("gemma-2-2b-it", 2.61),
            ("gemma-2-9b-it", 9.24),
            ("gemma-2-27b-it", 27.2),
            ("gemma-3-270m-it", 0.268),
            ("gemma-3-1b-it", 1.0),
            ("granite-3.3-2b-instruct", 2.53),
            ("granite-3.3-8b-instruct", 8.17),
        ] {
            let entry = find(name).unwrap_or_else(|| panic!("no {name}"));
            let found = entry.shape.parameters() as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.01, "{name}: {found}");
        }
        let mut names: Vec<_> = catalogue().iter().map(|entry| entry.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), count), (35, 35));
    }

    #[test]
    fn the_parts_of_a_fused_layer_mean_the_layer_and_others_are_named() {
        let lora = |modules: &[TargetModule]| {
            let mut lora = lora();
            lora.target_modules = modules.to_vec();
            lora
        };
        use TargetModule::{DownProj, GateProj, GateUpProj, KProj, OProj, QProj, QkvProj, VProj};
        let (phi, llama) = (find("phi-4").expect("phi"), find("qwen3-8b").expect("qwen"));
        let on_phi = |modules: &[TargetModule]| {
            let lora = lora(modules);
            (phi.shape.targets(&lora), phi.shape.lacking(&lora))
        };
        assert_eq!(
            on_phi(&[QProj, KProj, VProj, OProj]),
            (vec![QkvProj, OProj], None)
        );
        assert_eq!(on_phi(&TargetModule::SEPARATE).0, TargetModule::FUSED);
        assert_eq!(
            on_phi(&[GateUpProj, DownProj]),
            (vec![GateUpProj, DownProj], None)
        );
        assert_eq!(on_phi(&[QProj, KProj]).1, Some(QProj));
        assert_eq!(on_phi(&[OProj, GateProj]).1, Some(GateProj));
        let fused = lora(&[QkvProj]);
        assert_eq!(llama.shape.lacking(&fused), Some(QkvProj));
    }

    fn lora() -> LoraConfig {
        crate::uploads::tests::config(&[]).lora
    }
}
