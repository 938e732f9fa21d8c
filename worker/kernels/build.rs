//! With the `cuda` feature: compiles each of `src/backend/cuda/*.cu` to one fatbin with code for
//! several chips, so that no GPU compiles anything when a program starts. With the `cudnn` feature:
//! `src/backend/cuda/cudnn.cpp` as well.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Code for Ampere (and Ada, which runs it), Hopper and Blackwell; and PTX, which the driver
/// compiles for what comes later.
const CHIPS: [&str; 4] = [
    "arch=compute_80,code=sm_80",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_100,code=sm_100",
    "arch=compute_80,code=compute_80",
];
/// Of kernels whose names end in `_hopper`.
const HOPPER: [&str; 1] = ["arch=compute_90a,code=sm_90a"];
/// What a fatbin begins with.
const MAGIC: [u8; 4] = [0x50, 0xed, 0x55, 0xba];

fn main() {
    println!("cargo::rerun-if-changed=src/backend/cuda");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    #[cfg(feature = "cudnn")]
    cudnn();
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    refuse_leftovers(&out);
    let mut images = String::new();
    for kernel in kernels() {
        let image = out.join(format!("{kernel}.fatbin"));
        compile(&kernel, &image);
        images += &format!("({kernel:?}, include_bytes!({image:?})),\n");
    }
    // Names and code, for `cuda/modules.rs`.
    fs::write(out.join("images.rs"), format!("&[\n{images}]")).expect("a file in OUT_DIR");
}

/// Names of the files `src/backend/cuda/*.cu`, in order.
fn kernels() -> Vec<String> {
    let files = fs::read_dir("src/backend/cuda")
        .expect("the sources")
        .map(|entry| entry.expect("a file").path());
    let is_kernel = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "cu");
    let name = |path: PathBuf| {
        path.file_stem()
            .map(|name| name.to_string_lossy().into_owned())
    };
    let mut names: Vec<String> = files.filter(is_kernel).filter_map(name).collect();
    names.sort();
    names
}

/// Compiles `src/backend/cuda/{kernel}.cu` to the fatbin `out`, and refuses one without code.
fn compile(kernel: &str, out: &Path) {
    let source = format!("src/backend/cuda/{kernel}.cu");
    let mut nvcc = Command::new(nvcc());
    nvcc.args([
        "--fatbin",
        "-std=c++17",
        "-O3",
        "--threads",
        "0",
        "-Werror",
        "all-warnings",
    ]);
    let chips: &[&str] = if kernel.ends_with("_hopper") {
        &HOPPER
    } else {
        &CHIPS
    };
    for chip in chips {
        nvcc.args(["-gencode", chip]);
    }
    match nvcc.arg("-o").arg(out).arg(&source).status() {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc fails on {source}: {status}"),
        Err(e) => panic!(
            "the `cuda` feature needs CUDA's compiler, and {} does not run ({e}); set CUDA_HOME to a toolkit, or let \
             deploy/cuda/toolchain.sh get one",
            nvcc.get_program().display()
        ),
    }
    let code = fs::read(out).unwrap_or_default();
    if !code.starts_with(&MAGIC) {
        panic!("nvcc made no fatbin of {source}: {} bytes", code.len());
    }
}

/// Refuses what an earlier build with `tests/cuda/nvcc` left of candle's kernels: their build
/// script does not notice that the compiler is another one.
fn refuse_leftovers(out: &Path) {
    let version = Command::new(nvcc())
        .arg("--version")
        .output()
        .map(|o| o.stdout)
        .unwrap_or_default();
    if String::from_utf8_lossy(&version).contains("stands in") {
        return;
    }
    let builds = out
        .ancestors()
        .nth(2)
        .and_then(|folder| fs::read_dir(folder).ok());
    for build in builds.into_iter().flatten().flatten() {
        let is_candle = build
            .file_name()
            .to_string_lossy()
            .starts_with("candle-kernels-");
        let kernel = fs::read_to_string(build.path().join("out/cast.ptx"));
        if is_candle && kernel.is_ok_and(|code| !code.contains(".entry")) {
            panic!(
                "{} holds no code of candle's kernels; run `cargo clean --release -p candle-kernels`",
                build.path().display()
            );
        }
    }
}

/// What cuDNN's C++ headers are needed for. The library itself is found when the program runs.
#[cfg(feature = "cudnn")]
fn cudnn() {
    let variable = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let home = variable("CUDA_HOME")
        .or_else(|| variable("CUDA_PATH"))
        .unwrap_or_else(|| "/usr/local/cuda".into());
    let include = home.join("include");
    if !include.join("cudnn_frontend.h").exists() {
        panic!(
            "the `cudnn` feature needs cudnn_frontend.h, and {} has none; let deploy/cuda/toolchain.sh get it, and set \
             CUDA_HOME to its folder",
            include.display()
        );
    }
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .file("src/backend/cuda/cudnn.cpp")
        .flag("-isystem")
        .flag(&include)
        .flag("-fvisibility=hidden");
    build
        .define("NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING", None)
        .define("CUDNN_FRONTEND_SKIP_JSON_LIB", None);
    // Describing a graph is not what takes time, and its headers compile for minutes when they are
    // optimized.
    build
        .opt_level(1)
        .cpp_link_stdlib(None)
        .compile("qlora_cudnn");
    // The C++ library goes into the program, which then needs the C library only.
    let compiler = build.get_compiler();
    let found = compiler
        .to_command()
        .arg("-print-file-name=libstdc++.a")
        .output();
    let file =
        PathBuf::from(String::from_utf8_lossy(&found.map(|o| o.stdout).unwrap_or_default()).trim());
    if let Some(folder) = file.parent().filter(|_| file.is_absolute()) {
        println!("cargo::rustc-link-search=native={}", folder.display());
        println!("cargo::rustc-link-lib=static=stdc++");
    } else {
        println!("cargo::rustc-link-lib=stdc++");
    }
}

/// `NVCC`, else the compiler of `CUDA_HOME` or `CUDA_PATH`, else the one on the path.
fn nvcc() -> PathBuf {
    let variable = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let within = |folder: PathBuf| folder.join("bin/nvcc");
    variable("NVCC")
        .or_else(|| variable("CUDA_HOME").map(within))
        .or_else(|| variable("CUDA_PATH").map(within))
        .unwrap_or_else(|| "nvcc".into())
}
