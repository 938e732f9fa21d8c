//! Links the worker for the oldest macOS that it runs on.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        // Metal compiles candle's kernels in the language version of the macOS that a program was
        // linked for: for macOS 11, rustc's default, bf16 is not in the language and its kernels
        // are left out. MACOSX_DEPLOYMENT_TARGET would reach the procedural macros too, which then
        // fail to load on some systems.
        println!("cargo::rustc-link-arg-bins=-mmacosx-version-min=15.0");
    }
}
