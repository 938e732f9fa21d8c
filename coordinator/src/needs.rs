//! Computes with the planner what a resolved configuration needs of a worker.

use qlora_config::{DeviceKind, FlashAttention, ResolvedConfig};
use qlora_engine::{DeviceClass, Needs};
use qlora_planner::{DeviceBudget, find, fit, name_everywhere, on_host, plan};

const CLASSES: [(DeviceClass, DeviceKind); 3] = [
    (DeviceClass::Cpu, DeviceKind::Cpu),
    (DeviceClass::Cuda, DeviceKind::Cuda),
    (DeviceClass::Metal, DeviceKind::Metal),
];

/// Memory is judged for models of the catalogue; the shape of others is known only to the worker
/// that has them.
pub fn needs(config: &ResolvedConfig) -> Needs {
    let c = config.config();
    let mut needs = Needs {
        device: CLASSES
            .iter()
            .find(|(_, kind)| *kind == c.resources.device)
            .map(|(class, _)| *class),
        memory_fraction: Some(c.resources.memory_fraction),
        labels: c.resources.labels.clone(),
        flash_attention: c.training.flash_attention == FlashAttention::Required,
        workers: c.resources.workers,
        model: c.model.base.as_deref().and_then(name_everywhere),
        ..Needs::default()
    };
    let Some(model) = c.model.base.as_deref().and_then(find) else {
        return needs;
    };
    needs.host_memory = on_host(&model.shape, c);
    for (class, kind) in CLASSES {
        let wanted = plan(&model.shape, c, kind).total();
        needs.memory.insert(class, wanted);
        needs
            .advice
            .insert(class, advice(&model.shape, config, kind, wanted));
    }
    needs
}

/// What would make the run fit into four fifths, and into half, of what it needs.
fn advice(
    shape: &qlora_planner::ModelShape,
    config: &ResolvedConfig,
    kind: DeviceKind,
    wanted: u64,
) -> String {
    let smaller = |share: f64| {
        let bytes = (wanted as f64 * share / config.config().resources.memory_fraction) as u64;
        let refused = fit(shape, config.config(), DeviceBudget { kind, bytes }).err()?;
        let first = refused.suggestions.first()?.clone();
        Some(format!(
            "{:.1} GiB with {first}",
            wanted as f64 * share / (1u64 << 30) as f64
        ))
    };
    let found: Vec<String> = [0.8, 0.5].into_iter().filter_map(smaller).collect();
    if found.is_empty() {
        String::new()
    } else {
        format!("it would need {}", found.join(", "))
    }
}
