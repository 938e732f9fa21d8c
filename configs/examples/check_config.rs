//! Loads a configuration, lays `key=value` pairs over it, and checks the result.
//!
//! ```sh
//! cargo run --release -p qlora-config --example check_config -- [FILE [KEY=VALUE...]]
//! ```

#![expect(
    clippy::disallowed_methods,
    reason = "an example reads its arguments and the file that they name"
)]

use std::error::Error;

use qlora_config::{Layers, QUICKSTART};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let file = match args.next() {
        Some(name) => {
            let text = std::fs::read_to_string(&name)?;
            (name, text)
        }
        None => ("quickstart.yaml".into(), QUICKSTART.into()),
    };
    let layers = Layers {
        file: Some(file),
        set: args.collect(),
        ..Layers::default()
    };
    let resolved = match layers.resolve() {
        Ok(resolved) => resolved,
        // Every fault, each with its place and the way out.
        Err(faults) => {
            println!("{faults}");
            return Err("the configuration is not valid".into());
        }
    };
    for warning in resolved.warnings() {
        println!("{warning}");
    }
    let config = resolved.config();
    println!(
        "model: {}",
        config.model.base.as_deref().unwrap_or_default()
    );
    println!(
        "adapter: rank {}, scale {}",
        config.lora.r,
        config.lora.scale()
    );
    println!("SHA-256 of the whole configuration: {}", resolved.hash());
    Ok(())
}
