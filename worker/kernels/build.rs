//! With the `cuda` feature: compiles `src/cuda/*.cu` to PTX, which the driver turns into code for the GPU that it finds.
//! With the `cudnn` feature: `src/cuda/cudnn.cpp` as well.

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
    #[cfg(feature = "cudnn")]
    cudnn();
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

/// What cuDNN's C++ headers are needed for. The library itself is found when the program runs.
#[cfg(feature = "cudnn")]
fn cudnn() {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = variable("CUDA_HOME").or_else(|| variable("CUDA_PATH")).unwrap_or_else(|| "/usr/local/cuda".into());
    let include = home.join("include");
    if !include.join("cudnn_frontend.h").exists() {
        panic!(
            "the `cudnn` feature needs cudnn_frontend.h, and {} has none; let deploy/cuda/toolchain.sh get it, and set \
             CUDA_HOME to its folder",
            include.display()
        );
    }
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").file("src/cuda/cudnn.cpp").flag("-isystem").flag(&include).flag("-fvisibility=hidden");
    build.define("NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING", None).define("CUDNN_FRONTEND_SKIP_JSON_LIB", None);
    // Describing a graph is not what takes time, and its headers compile for minutes when they are optimised.
    build.opt_level(1).cpp_link_stdlib(None).compile("qlora_cudnn");
    // The C++ library goes into the program, which then needs the C library only.
    let compiler = build.get_compiler();
    let found = compiler.to_command().arg("-print-file-name=libstdc++.a").output();
    let file = PathBuf::from(String::from_utf8_lossy(&found.map(|o| o.stdout).unwrap_or_default()).trim());
    if let Some(folder) = file.parent().filter(|_| file.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static=stdc++");
    } else {
        println!("cargo::rustc-link-lib=stdc++");
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
