//! Plans the memory of a run: what a model of the catalogue needs on a device, or which change
//! would make it fit.
//!
//! ```sh
//! cargo run --release -p qlora-planner --example plan_memory
//! ```

use std::error::Error;

use qlora_config::{DeviceKind, Layers};
use qlora_planner::{DeviceBudget, find, fit};

const GIB: u64 = 1 << 30;

fn main() -> Result<(), Box<dyn Error>> {
    let model = "llama-3.1-8b-instruct";
    let entry = find(model).ok_or("the catalogue has no such model")?;
    let layers = Layers {
        set: vec![
            format!("model.base={model}"),
            "data.train=train.jsonl".into(),
            "data.max_seq_len=8192".into(),
        ],
        ..Layers::default()
    };
    let resolved = layers.resolve()?;
    for gib in [8, 12, 24, 80] {
        let budget = DeviceBudget {
            kind: DeviceKind::Cuda,
            bytes: gib * GIB,
        };
        // Without a device: the planner counts bytes and opens nothing.
        match fit(&entry.shape, resolved.config(), budget) {
            Ok(plan) => println!(
                "{gib} GiB: fits, {:.1} GiB, of them {:.1} GiB weights",
                plan.total() as f64 / GIB as f64,
                plan.weights as f64 / GIB as f64
            ),
            Err(fault) => println!("{gib} GiB: {fault}"),
        }
    }
    Ok(())
}
