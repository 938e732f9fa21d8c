//! Prints every error code with its meaning, as a table in Markdown.
//!
//! ```sh
//! cargo run --release -p qlora-codes --example error_codes
//! ```

use qlora_codes::Code;

fn main() {
    println!("| code | meaning |\n|---|---|");
    for code in Code::ALL {
        println!("| {code} | {} |", code.meaning().replace('|', "\\|"));
    }
}
