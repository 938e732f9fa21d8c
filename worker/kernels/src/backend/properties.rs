//! The properties of each kind of device: one row of data a kind.

use candle_core::Device;

use crate::types::properties::DeviceProperties;

const CPU: DeviceProperties = DeviceProperties {
    in_host_memory: true,
    tables_as_stored: true,
    runs_behind: false,
    loads_in_parallel: true,
};

const CUDA: DeviceProperties = DeviceProperties {
    in_host_memory: false,
    tables_as_stored: false,
    runs_behind: true,
    loads_in_parallel: true,
};

/// Whether a Mac's GPU may be loaded by several threads was never tried.
const METAL: DeviceProperties = DeviceProperties {
    loads_in_parallel: false,
    ..CUDA
};

/// The row of `device`.
pub(crate) fn of(device: &Device) -> DeviceProperties {
    match device {
        Device::Cpu => CPU,
        Device::Cuda(_) => CUDA,
        Device::Metal(_) => METAL,
    }
}
