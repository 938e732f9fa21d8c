//! Writes a file that nobody sees before it is complete, and that replaces no other unasked.
//!
//! ```sh
//! cargo run --release -p qlora-files --example publish
//! ```

use std::fs;
use std::io::{Error, ErrorKind};

use qlora_files::{Partial, sweep, write};

fn main() -> Result<(), Error> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("model.gguf");

    let first = Partial::file(&out)?;
    let second = Partial::file(&out)?;
    fs::write(first.path(), "of the first")?;
    fs::write(second.path(), "of the second")?;
    println!("while both are written, it is there: {}", out.exists());

    first.publish()?;
    println!("published: {}", fs::read_to_string(&out)?);
    match second.publish() {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            println!("the second is refused: the name is taken")
        }
        other => return other,
    }

    // Where the newest is to have the name, it takes it in one step.
    write(&out, b"of the third")?;
    println!("replaced: {}", fs::read_to_string(&out)?);
    let begun = sweep(&out);
    println!("begun and left: {}", begun.removed.len() + begun.kept.len());
    Ok(())
}
