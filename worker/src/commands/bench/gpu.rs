//! What NVML adds to the figures of a GPU.

use qlora_trainer::bench::{Figures, data_sheet_rate};
use serde::Serialize;

use crate::platform::{Accelerator, nvidia};

#[derive(Serialize)]
pub struct Gpu {
    pub name: String,
    pub driver: String,
    /// From before loading to after the last measurement.
    pub joules: Option<f64>,
    /// Of the rate on the GPU's data sheet, where that is known.
    pub model_flops_utilization: Option<f64>,
}

/// The one that is measured.
fn first_gpu() -> Option<Accelerator> {
    nvidia::all().ok()?.into_iter().next()
}

impl Gpu {
    /// Of the GPU that `figures` are of; `before` is its energy from before loading.
    pub fn of(figures: &Figures, before: Option<f64>) -> Option<Self> {
        let gpu = first_gpu()?;
        Some(Self {
            joules: nvidia::energy(&gpu.id)
                .zip(before)
                .map(|(after, before)| after - before),
            model_flops_utilization: data_sheet_rate(&gpu.name)
                .map(|rate| figures.operations_per_second / rate),
            name: gpu.name,
            driver: gpu.driver,
        })
    }
}

/// The energy that the measured GPU has used so far.
pub fn energy() -> Option<f64> {
    first_gpu().and_then(|gpu| nvidia::energy(&gpu.id))
}
