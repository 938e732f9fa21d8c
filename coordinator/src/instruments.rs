//! What the coordinator measures of itself and of the jobs, for Prometheus and OTLP.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::metrics::{AsyncInstrument, Histogram};
use opentelemetry::{KeyValue, global};
use qlora_engine::{Engine, JobState};
use qlora_proto as wire;

use crate::driver::Handle;
use crate::usage::{Disk, Usage};

/// Gauges at one moment.
#[derive(Debug, Default, Clone)]
struct Reading {
    states: Vec<(&'static str, u64)>,
    workers: Vec<(bool, u64)>,
    running: Vec<Running>,
    /// None before it was counted once.
    disk: Option<Usage>,
}

#[derive(Debug, Clone)]
struct Running {
    job: String,
    name: String,
    worker: String,
    step: f64,
    steps: f64,
    loss: Option<f64>,
    eval_loss: Option<f64>,
    tokens_per_second: Option<f64>,
    peak_bytes: f64,
}

/// The instruments; gauges show the last [`Instruments::refresh`].
#[derive(Clone)]
pub struct Instruments {
    reading: Arc<Mutex<Reading>>,
    driver: Handle,
    pub disk: Disk,
    /// From submission to the start of the first attempt.
    pub submit_to_start: Histogram<f64>,
}

impl Instruments {
    pub fn start(driver: Handle, disk: Disk) -> Self {
        let meter = global::meter("qlora-coordinator");
        let reading = Arc::<Mutex<Reading>>::default();
        let submit_to_start = meter
            .f64_histogram("qlora.job.submit_to_start")
            .with_unit("s")
            .with_description("From the submission of a job to the start of its first attempt")
            .build();
        observe(&reading, "qlora.jobs", "Jobs by state", |r, o| {
            r.states
                .iter()
                .for_each(|&(state, n)| o.observe(n as f64, &[KeyValue::new("state", state)]));
        });
        observe(
            &reading,
            "qlora.workers",
            "Workers by whether their lease holds",
            |r, o| {
                r.workers.iter().for_each(|&(connected, n)| {
                    o.observe(n as f64, &[KeyValue::new("connected", connected)])
                });
            },
        );
        observe(
            &reading,
            "qlora.store.bytes",
            "Bytes of the database on disk, and of the artifacts where they lie",
            |r, o| {
                let kinds = r
                    .disk
                    .map(|disk| [("database", disk.database), ("artifacts", disk.artifacts)]);
                for (kind, bytes) in kinds.into_iter().flatten() {
                    o.observe(bytes as f64, &[KeyValue::new("kind", kind)]);
                }
            },
        );
        job_gauges(&reading);
        Self {
            reading,
            driver,
            disk,
            submit_to_start,
        }
    }

    /// Reads the engine and the disk; call before the gauges are shown.
    pub async fn refresh(&self) {
        let disk = self.disk.usage().await;
        if let Ok(new) = self.driver.read(read).await {
            let new = Reading { disk, ..new };
            *self.reading.lock().unwrap_or_else(PoisonError::into_inner) = new;
        }
    }
}

fn observe(
    reading: &Arc<Mutex<Reading>>,
    name: &'static str,
    description: &'static str,
    f: impl Fn(&Reading, &dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let reading = reading.clone();
    global::meter("qlora-coordinator")
        .f64_observable_gauge(name)
        .with_description(description)
        .with_callback(move |o| f(&reading.lock().unwrap_or_else(PoisonError::into_inner), o))
        .build();
}

/// What is told of each job that runs.
fn job_gauges(reading: &Arc<Mutex<Reading>>) {
    job_gauge(reading, "qlora.job.step", "Steps done", |r| Some(r.step));
    job_gauge(reading, "qlora.job.steps", "Steps in all", |r| {
        Some(r.steps)
    });
    job_gauge(
        reading,
        "qlora.job.loss",
        "Training loss of the last step",
        |r| r.loss,
    );
    job_gauge(reading, "qlora.job.eval_loss", "Held-out loss", |r| {
        r.eval_loss
    });
    job_gauge(
        reading,
        "qlora.job.tokens_per_second",
        "Tokens trained on a second",
        |r| r.tokens_per_second,
    );
    job_gauge(
        reading,
        "qlora.job.peak_bytes",
        "Peak memory of the training process",
        |r| Some(r.peak_bytes),
    );
}

fn job_gauge(
    reading: &Arc<Mutex<Reading>>,
    name: &'static str,
    description: &'static str,
    value: impl Fn(&Running) -> Option<f64> + Send + Sync + 'static,
) {
    observe(reading, name, description, move |r, o| {
        for running in &r.running {
            let labels = [
                KeyValue::new("job", running.job.clone()),
                KeyValue::new("name", running.name.clone()),
                KeyValue::new("worker", running.worker.clone()),
            ];
            if let Some(value) = value(running) {
                o.observe(value, &labels);
            }
        }
    });
}

fn read(engine: &Engine) -> Reading {
    let mut states = [
        wire::JobState::Queued,
        wire::JobState::Running,
        wire::JobState::Succeeded,
        wire::JobState::Failed,
        wire::JobState::Cancelled,
        wire::JobState::Paused,
    ]
    .map(|state| (state.word(), 0));
    let mut running = Vec::new();
    for job in engine.jobs() {
        let index = match &job.state {
            JobState::Queued { .. } => 0,
            JobState::Running { worker, .. } => {
                let p = &job.progress;
                running.push(Running {
                    job: job.id.to_string(),
                    name: job.spec.name.clone(),
                    worker: worker.clone(),
                    step: p.step as f64,
                    steps: p.steps as f64,
                    loss: p.loss,
                    eval_loss: p.last_evaluation,
                    tokens_per_second: p.tokens_per_second,
                    peak_bytes: p.peak_bytes as f64,
                });
                1
            }
            JobState::Succeeded { .. } => 2,
            JobState::Failed { .. } => 3,
            JobState::Cancelled { .. } => 4,
            JobState::Paused { .. } => 5,
        };
        states[index].1 += 1;
    }
    for (how, count) in engine.ended_away() {
        let of_word = states.iter_mut().find(|(word, _)| *word == how.word());
        of_word.into_iter().for_each(|(_, all)| *all += count);
    }
    let connected = engine.workers().filter(|w| w.connected).count() as u64;
    let all = engine.workers().count() as u64;
    Reading {
        states: states.to_vec(),
        workers: vec![(true, connected), (false, all - connected)],
        running,
        disk: None,
    }
}
