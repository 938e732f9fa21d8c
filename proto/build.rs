//! Compiles `qlora/v1/*.proto` without protoc.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 6] = [
    "jobs",
    "configs",
    "workers",
    "artifacts",
    "events",
    "tokens",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = FILES.map(|name| format!("qlora/v1/{name}.proto"));
    for file in &files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(&files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("qlora.v1.bin"), descriptors.encode_to_vec())?;
    // Whoever lists methods is held against this, and needs no reader of descriptors.
    let mut methods = Vec::new();
    for file in &descriptors.file {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            methods.extend(
                service
                    .method
                    .iter()
                    .map(|m| format!("/{name}/{}", m.name())),
            );
        }
    }
    std::fs::write(out.join("methods.rs"), format!("&{methods:?}"))?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
