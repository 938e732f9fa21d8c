//! Reads the header of a GGUF file, or `config.json` of a folder, without its weights.
//!
//! ```sh
//! cargo run --release -p qlora-trainer --example model_shape -- [MODEL.gguf | FOLDER]
//! ```

use std::path::PathBuf;

use qlora_trainer::Result;
use qlora_trainer::weights::shape_of;

fn main() -> Result<()> {
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/tiny_llama");
    let path: PathBuf = std::env::args_os().nth(1).unwrap_or(tiny.into()).into();
    let shape = shape_of(&path)?;
    println!("layers: {}", shape.layers);
    println!("hidden size: {}", shape.hidden);
    println!(
        "heads: {}, of keys and values {}, each of {}",
        shape.heads, shape.kv_heads, shape.head_dim
    );
    println!("vocabulary: {}", shape.vocabulary);
    println!("positions: {}", shape.max_positions);
    println!(
        "parameters of linear layers: {}",
        shape.layers * shape.block_parameters()
    );
    Ok(())
}
