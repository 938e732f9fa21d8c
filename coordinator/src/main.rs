//! The program; what it does is in the library of the same name.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    qlora_coordinator::run().await
}
