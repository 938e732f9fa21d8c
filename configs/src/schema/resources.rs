//! The section `resources`.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the job runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    pub device: DeviceKind,
    /// Labels that a worker must carry, each a name with a text.
    pub labels: BTreeMap<String, String>,
    /// Share of the device's memory that the run may plan with.
    pub memory_fraction: f64,
    /// Workers of one kind that train the job together, each a part of every step's micro-batches; a
    /// divisor of `training.gradient_accumulation`. Steps, batches and result are those of one
    /// worker: see docs/SEVERAL_GPUS.md.
    pub workers: usize,
    /// Failed attempts that are tried again; lost workers do not count.
    pub max_retries: u32,
    /// Minutes after which an attempt is asked to save and the job is cancelled. Workers that are
    /// kept free for an older job of several workers run a younger job meanwhile if this limit ends
    /// in time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<u64>,
    /// Queued jobs of a greater priority start first. Among those of one priority comes first the job
    /// whose user has the fewest workers in use and has used least of late; jobs of one user start in
    /// the order of their submission. A job without one has 0. A running job is never stopped for
    /// another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// Kind of device that the job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// Whichever is free.
    Any,
    /// An NVIDIA GPU.
    Cuda,
    /// The GPU of a Mac.
    Metal,
    /// A CPU.
    Cpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Any => "any",
            Self::Cuda => "cuda",
            Self::Metal => "metal",
            Self::Cpu => "cpu",
        })
    }
}
