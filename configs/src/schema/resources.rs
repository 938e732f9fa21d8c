//! The section `resources`.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceConfig {
    pub device: DeviceKind,
    /// Labels that a worker must carry.
    pub labels: BTreeMap<String, String>,
    /// Share of the device's memory that the run may plan with.
    pub memory_fraction: f64,
    /// Workers that train the job together, each a part of every step's micro-batches; the result
    /// is that of one.
    pub workers: usize,
    /// Failed attempts after which the job fails; lost workers do not count.
    pub max_retries: u32,
    /// Minutes after which an attempt is saved and the job cancelled; without end where none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_minutes: Option<u64>,
}

/// The kind of device that a job asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Any,
    Cuda,
    Metal,
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
