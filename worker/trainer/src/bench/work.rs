//! How much arithmetic a step is, and what part of it a device does in a second.

use qlora_config::TrainingConfig;
use qlora_planner::ModelShape;

/// Floating-point operations of forward and backward for one token of a sequence of `length`,
/// nothing counted twice.
///
/// A frozen matrix costs a product forward and one back, a trained one a third; causal attention
/// counts as half of the full one, its backward pass as 2.5 times the forward one, as in NVIDIA's
/// figures for cuDNN.
pub fn operations_per_token(shape: &ModelShape, config: &TrainingConfig, length: usize) -> f64 {
    let frozen = (shape.layers * shape.block_parameters() + shape.vocabulary * shape.hidden) as f64;
    let trained = shape.adapter_parameters(&config.lora) as f64;
    let seen = |layer: usize| length.min(shape.layer(layer).window.unwrap_or(length)) as f64 / 2.0;
    let seen: f64 = (0..shape.layers).map(seen).sum();
    let attention = 4.0 * (shape.heads * shape.head_dim) as f64 * seen;
    4.0 * frozen + 6.0 * trained + 3.5 * attention
}

/// Dense bf16 operations a second that NVIDIA's data sheets give for a GPU, by its name; none for
/// one that is not listed.
pub fn data_sheet_rate(name: &str) -> Option<f64> {
    const SHEETS: [(&str, f64); 8] = [
        ("H200", 989.4e12),
        ("H100 PCIe", 756.0e12),
        ("H100 NVL", 835.5e12),
        ("H100", 989.4e12),
        ("B200", 2_250.0e12),
        ("A100", 312.0e12),
        ("L40S", 362.05e12),
        ("RTX 4090", 165.2e12),
    ];
    SHEETS
        .iter()
        .find(|(part, _)| name.contains(part))
        .map(|&(_, rate)| rate)
}

#[cfg(test)]
mod tests {
    use qlora_testkit::resolved;

    use super::*;

    #[test]
    fn llama_8b_is_counted() {
        let entry =
            qlora_planner::find("llama-3.1-8b-instruct").expect("an entry of the catalogue");
        let set = ["model.base=llama-3.1-8b-instruct", "data.train=rows.jsonl"];
        let config = resolved(&[], &set);
        let found = operations_per_token(&entry.shape, config.config(), 4096);
        // 4 x (6.979 + 0.525) x 10^9 of frozen matrices, 6 x 13.63 x 10^6, and attention at 32 x
        // 117.4 x 10^6.
        let wanted =
            4.0 * (6.979e9 + 0.5253e9) + 6.0 * 13.63e6 + 32.0 * 3.5 * 4.0 * 4096.0 * 2048.0;
        assert!((found / wanted - 1.0).abs() < 1e-3, "{found} and {wanted}");
        assert_eq!(data_sheet_rate("NVIDIA H100 80GB HBM3"), Some(989.4e12));
        assert_eq!(data_sheet_rate("AMD EPYC"), None);
    }
}
