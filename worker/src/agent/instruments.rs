//! What the worker measures of its training, for OTLP.

use opentelemetry::global;
use opentelemetry::metrics::{Counter, Histogram};
use qlora_trainer::report::StepReport;

/// The instruments of an attempt.
pub struct Instruments {
    steps: Counter<u64>,
    tokens: Counter<u64>,
    skipped: Counter<u64>,
    step_duration: Histogram<f64>,
}

impl Default for Instruments {
    fn default() -> Self {
        let meter = global::meter("qlora-worker");
        Self {
            steps: meter
                .u64_counter("qlora.steps")
                .with_description("Optimizer steps")
                .build(),
            tokens: meter
                .u64_counter("qlora.tokens")
                .with_description("Tokens trained on")
                .build(),
            skipped: meter
                .u64_counter("qlora.steps.skipped")
                .with_description("Steps that were not finite")
                .build(),
            step_duration: meter
                .f64_histogram("qlora.step.duration")
                .with_unit("s")
                .with_description("One step")
                .build(),
        }
    }
}

impl Instruments {
    pub fn record(&self, step: &StepReport) {
        self.steps.add(1, &[]);
        self.tokens.add(step.tokens, &[]);
        self.skipped.add(u64::from(step.skipped), &[]);
        self.step_duration.record(step.seconds, &[]);
    }
}
