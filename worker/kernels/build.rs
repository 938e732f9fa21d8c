//! With the `cuda` feature: compiles `src/cuda/*.cu` to PTX, which the driver turns into code for the GPU that it finds.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const KERNELS: [&str; 11] = [
    "adamw",
    "attention_backward",
    "attention_forward",
    "cross_entropy",
    "dropout",
    "lora",
    "nf4",
    "rms_norm",
    "rope",
    "rows",
    "swiglu",
];
/// The oldest GPUs that are served, Ampere; PTX for them runs on all newer ones.
const ARCHITECTURE: &str = "-arch=compute_80";

fn main() {
    println!("cargo::rerun-if-changed=src/cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for kernel in KERNELS {
        let mut nvcc = Command::new(nvcc());
        nvcc.args(["--ptx", ARCHITECTURE, "-std=c++17", "-O3", "-o"]).arg(out.join(format!("{kernel}.ptx")));
        let status = nvcc.arg(format!("src/cuda/{kernel}.cu")).status();
        match status {
            Ok(status) if status.success() => {}
            Ok(status) => panic!("nvcc fails on src/cuda/{kernel}.cu: {status}"),
            Err(e) => panic!(
                "the `cuda` feature needs CUDA's compiler, and {} does not run ({e}); set CUDA_HOME to a toolkit, or let \
                 deploy/cuda/toolchain.sh get one",
                nvcc.get_program().display()
            ),
        }
    }
}

/// `NVCC`, else the compiler of `CUDA_HOME` or `CUDA_PATH`, else the one on the path.
fn nvcc() -> PathBuf {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let within = |folder: PathBuf| folder.join("bin/nvcc");
    variable("NVCC")
        .or_else(|| variable("CUDA_HOME").map(within))
        .or_else(|| variable("CUDA_PATH").map(within))
        .unwrap_or_else(|| "nvcc".into())
}
