//! Links what Metal needs into every program with the trainer in it; the trainer's own tests are
//! such programs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "macos") {
        // Without CoreGraphics, a command-line program is given no default GPU.
        println!("cargo::rustc-link-lib=framework=CoreGraphics");
        // See worker/build.rs.
        println!("cargo::rustc-link-arg=-mmacosx-version-min=15.0");
    }
}
