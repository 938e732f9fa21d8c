//! Figures of `bench` as lines.

use qlora_proto::words::count;
use qlora_trainer::bench::{Figures, Parts, Timing};

use super::gpu::Gpu;
use crate::error::WorkerError;
use crate::output::print;

/// Prints all of them.
pub fn print_figures(
    model: &str,
    figures: &Figures,
    model_layers: usize,
    gpu: Option<&Gpu>,
) -> Result<(), WorkerError> {
    print(format!("model         {model}"))?;
    if figures.layers != model_layers {
        print(format!(
            "layers        {} instead of {model_layers}",
            figures.layers
        ))?;
    }
    print_speed(figures)?;
    print_memory(figures)?;
    if let Some(attention) = &figures.attention {
        print(format!("attention     {attention}"))?;
    }
    print(format!("operations    {}", figures.operations))?;
    print(format!(
        "first step    {:.2} s after the start of the process",
        figures.first_step_seconds
    ))?;
    print(format!("threads       {}", figures.threads))?;
    if let Some(gpu) = gpu {
        print_gpu(gpu)?;
    }
    if !figures.kernels.is_empty() {
        print_kernels(&figures.kernels, figures.seconds_per_step)?;
    }
    Ok(())
}

fn print_speed(figures: &Figures) -> Result<(), WorkerError> {
    print(format!("tokens/s      {:.0}", figures.tokens_per_second))?;
    let how = if figures.warmed_up {
        format!("median of {}", figures.steps)
    } else {
        "the first step, nothing was warmed up".into()
    };
    print(format!(
        "seconds/step  {:.2} ({} tokens, {how})",
        figures.seconds_per_step, figures.tokens_per_step
    ))?;
    if let Some(Parts {
        forward,
        backward,
        update,
    }) = figures.seconds
    {
        print(format!(
            "parts         forward {forward:.2} s, backward {backward:.2} s, update {update:.2} s"
        ))?;
    }
    let share = figures.peak.map_or(String::new(), |peak| {
        format!(
            ", {:.0} % of the {:.2} that its instructions reach from registers",
            100.0 * peak.share,
            peak.operations_per_second / 1e12
        )
    });
    print(format!(
        "arithmetic    {:.2} TFLOP/s{share}",
        figures.operations_per_second / 1e12
    ))
}

fn print_memory(figures: &Figures) -> Result<(), WorkerError> {
    print(format!(
        "peak memory   {:.0} MB",
        figures.peak_bytes as f64 / 1e6
    ))?;
    print(format!(
        "planned       {:.0} MB without the program itself",
        figures.planned_bytes as f64 / 1e6
    ))?;
    let saved: Vec<String> = figures
        .saved
        .iter()
        .map(|(part, blocks)| format!("{part} of {}", count(*blocks as u64, "block")))
        .collect();
    print(format!("saved         {}", saved.join("; ")))
}

fn print_gpu(gpu: &Gpu) -> Result<(), WorkerError> {
    print(format!("GPU           {}, driver {}", gpu.name, gpu.driver))?;
    if let Some(share) = gpu.model_flops_utilization {
        print(format!(
            "utilization   {:.1} % of the data sheet's rate",
            100.0 * share
        ))?;
    }
    if let Some(joules) = gpu.joules {
        print(format!(
            "energy        {joules:.0} J from loading to the end"
        ))?;
    }
    Ok(())
}

/// Every operation in the order of a step.
fn print_kernels(kernels: &[Timing], seconds_per_step: f64) -> Result<(), WorkerError> {
    print("")?;
    print(format!(
        "{:<38} {:>10}  {:>15} {:>7} {:>6} {:>10}",
        "operation", "ms", "rate", "share", "runs", "ms a step"
    ))?;
    for Timing {
        name,
        milliseconds,
        rate,
        unit,
        share,
        calls,
        step_milliseconds,
        ..
    } in kernels
    {
        let rate = if *unit == "B/s" {
            format!("{:.1} G{unit}", rate / 1e9)
        } else {
            format!("{:.2} T{unit}", rate / 1e12)
        };
        let share = format!("{:.1} %", 100.0 * share);
        print(format!(
            "{name:<38} {milliseconds:>10.4}  {rate:>15} {share:>7} {calls:>6} {step_milliseconds:>10.2}"
        ))?;
    }
    let sum: f64 = kernels.iter().map(|timing| timing.step_milliseconds).sum();
    print(format!("{:<38} {:>53.2}", "sum", sum))?;
    print(format!("{:<38} {:>53.2}", "step", seconds_per_step * 1e3))
}
