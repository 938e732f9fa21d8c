//! The machine code of our kernels on one GPU.
//!
//! Every kernel file is one fatbin with code for several chips, made by `build.rs` and part of the
//! program. All of them are loaded when a GPU is opened, so that a program whose kernels cannot run
//! says so before any work begins. `QLORA_KERNELS=FOLDER` takes `NAME.fatbin` or `NAME.cubin` from
//! a folder instead of the built-in one, for tuning.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Error;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaStream, LaunchArgs,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;

use crate::Result;

/// The variable that names a folder of replacements.
const REPLACEMENTS: &str = "QLORA_KERNELS";
const ENDINGS: [&str; 2] = ["fatbin", "cubin"];

/// Names of the kernel files, and their code; `build.rs` lists what it has compiled.
const IMAGES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/images.rs"));
/// How names of files end that have code for Hopper only, whose instructions no other chip has.
const HOPPER: &str = "_hopper";

/// All kernel files, loaded.
pub(super) struct Modules(HashMap<&'static str, Arc<CudaModule>>);

impl Modules {
    /// # Errors
    /// The driver refuses a file: which, and why. `QLORA_KERNELS` names no folder, or a folder
    /// without any kernel file.
    pub fn load(context: &Arc<CudaContext>, is_hopper: bool) -> Result<Self> {
        let folder = folder();
        if let Some(folder) = folder
            .as_deref()
            .filter(|folder| replacements(folder).is_empty())
        {
            candle_core::bail!(
                "{REPLACEMENTS} is {}, which holds no NAME.fatbin or NAME.cubin",
                folder.display()
            )
        }
        let load = |&(name, code): &(&'static str, &[u8])| {
            let replaced = folder
                .as_deref()
                .and_then(|folder| replacement(folder, name));
            let whose = match &replaced {
                Some(path) => format!("{REPLACEMENTS} has them in {}", path.display()),
                None => "this program has code for GPUs of compute capability 8.0 and later".into(),
            };
            let image = replaced.map_or_else(|| Ptx::from_binary(code.to_vec()), Ptx::from_file);
            let module = context.load_module(image).map_err(|e| {
                Error::Msg(format!(
                    "the driver does not load the kernels `{name}` ({e}); {whose}"
                ))
            })?;
            Ok((name, module))
        };
        let runs = |(name, _): &&(&str, &[u8])| is_hopper || !name.ends_with(HOPPER);
        Ok(Self(
            IMAGES
                .iter()
                .filter(runs)
                .map(load)
                .collect::<Result<_>>()?,
        ))
    }

    /// The kernel `name` of the file `module`.
    pub fn function(&self, module: &str, name: &str) -> Result<CudaFunction> {
        let Some(loaded) = self.0.get(module) else {
            candle_core::bail!("there is no kernel file {module}")
        };
        loaded.load_function(name).w()
    }
}

/// The folder that `QLORA_KERNELS` names.
fn folder() -> Option<PathBuf> {
    std::env::var_os(REPLACEMENTS)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The file that stands in for the kernel file `name`.
fn replacement(folder: &Path, name: &str) -> Option<PathBuf> {
    ENDINGS
        .iter()
        .map(|ending| folder.join(format!("{name}.{ending}")))
        .find(|path| path.is_file())
}

fn replacements(folder: &Path) -> Vec<&'static str> {
    IMAGES
        .iter()
        .map(|&(name, _)| name)
        .filter(|name| replacement(folder, name).is_some())
        .collect()
}

/// Names of the kernel files that come from the folder `QLORA_KERNELS`.
pub fn replaced() -> Vec<&'static str> {
    folder().map_or_else(Vec::new, |folder| replacements(&folder))
}

/// A kernel, and the stream that the work of its GPU goes to.
pub(super) struct Function {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Function {
    pub fn new(function: CudaFunction, stream: Arc<CudaStream>) -> Self {
        Self { function, stream }
    }

    /// A launch on the stream of the GPU.
    pub fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }

    /// The kernel alone, for a launch on another stream.
    pub fn into_cuda_function(self) -> CudaFunction {
        self.function
    }
}
