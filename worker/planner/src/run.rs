//! The run that memory is planned for.

use qlora_config::{DeviceKind, TrainingConfig};
use serde::{Deserialize, Serialize};

use crate::device::Device;
use crate::shape::ModelShape;

/// What a device offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceBudget {
    /// Never [`DeviceKind::Any`].
    pub kind: DeviceKind,
    /// Bytes that may be planned with, before `resources.memory_fraction`.
    pub bytes: u64,
}

impl DeviceBudget {
    /// Bytes that `config` lets a run plan with.
    pub(crate) fn available(self, config: &TrainingConfig) -> u64 {
        (self.bytes as f64 * config.resources.memory_fraction) as u64
    }
}

/// A model, a configuration and a kind of device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub shape: &'a ModelShape,
    pub config: &'a TrainingConfig,
    pub device: &'static Device,
}

impl<'a> Run<'a> {
    pub fn new(shape: &'a ModelShape, config: &'a TrainingConfig, kind: DeviceKind) -> Self {
        Self {
            shape,
            config,
            device: Device::of(kind),
        }
    }

    /// Tokens of a micro-batch: the worst that the data can bring.
    pub fn tokens(&self) -> usize {
        self.config.training.micro_batch_size * self.config.data.max_seq_len
    }
}
