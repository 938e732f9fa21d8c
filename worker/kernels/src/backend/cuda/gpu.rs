//! What every launch on one GPU shares: the kernels' code, the handle of cuBLASLt, its workspace,
//! and the maps of 8-bit codes.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use candle_core::cuda_backend::cudarc::cublaslt::result as blas;
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};
use candle_core::cuda_backend::{DeviceId, WrapErr};
use candle_core::{CudaDevice, Device, Tensor};
use parking_lot::Mutex;

use super::copies::Copies;
use super::modules::{Function, Modules};
use super::plans::{Plans, WORKSPACE, fault};
use crate::Result;
use crate::host::{dynamic8, nf4};

/// One GPU, as long as the program runs.
pub(super) struct Gpu {
    pub modules: Modules,
    /// Its compute capability, 90 for 9.0.
    pub capability: i32,
    pub copies: Copies,
    /// What dequantizes matrices beside products.
    pub side: Arc<CudaStream>,
    pub plans: Plans,
    pub workspace: CudaSlice<u8>,
    /// What the 8-bit codes of second-level scales and of first moments stand for [256].
    pub dynamic_map: Tensor,
    /// The same for second moments.
    pub unsigned_map: Tensor,
    /// The codes of values, for both maps.
    pub codes: [Tensor; 2],
}

/// Whether a chip has the instructions of compute capability 9.0, which later ones lack.
fn is_hopper(capability: i32) -> bool {
    capability / 10 == 9
}

static OPENED: LazyLock<Mutex<HashMap<DeviceId, Arc<Gpu>>>> = LazyLock::new(Mutex::default);

impl Gpu {
    /// Whether it runs the kernels that are for Hopper only.
    pub fn is_hopper(&self) -> bool {
        is_hopper(self.capability)
    }

    /// The one that `device` is.
    pub fn of(device: &CudaDevice) -> Result<Arc<Self>> {
        let mut opened = OPENED.lock();
        if let Some(gpu) = opened.get(&device.id()) {
            return Ok(gpu.clone());
        }
        let (on, stream) = (Device::Cuda(device.clone()), device.cuda_stream());
        let context = stream.context();
        let capability = 10
            * context
                .attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)
                .w()?
            + context
                .attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)
                .w()?;
        let gpu = Arc::new(Self {
            modules: Modules::load(context, is_hopper(capability))?,
            capability,
            copies: Copies::new(device)?,
            side: context.new_stream().w()?,
            plans: Plans::new(blas::create_handle().map_err(fault)?),
            // SAFETY: cuBLASLt writes before it reads.
            workspace: unsafe { device.cuda_stream().alloc(WORKSPACE) }.w()?,
            dynamic_map: Tensor::new(nf4::dynamic_table(), &on)?,
            unsigned_map: Tensor::new(&dynamic8::UNSIGNED.values, &on)?,
            codes: [
                Tensor::new(dynamic8::SIGNED.nearest(), &on)?,
                Tensor::new(dynamic8::UNSIGNED.nearest(), &on)?,
            ],
        });
        opened.insert(device.id(), gpu.clone());
        Ok(gpu)
    }
}

/// The kernel `name` of the file `module`.
pub(super) fn function(device: &CudaDevice, module: &str, name: &str) -> Result<Function> {
    Ok(Function::new(
        Gpu::of(device)?.modules.function(module, name)?,
        device.cuda_stream(),
    ))
}
