//! The program; what it does is in the library of the same name.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A call of the protocol takes and gives back hundreds of small pieces of memory; with the system's
/// allocator that is a seventh of the coordinator's CPU time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    qlora_coordinator::run().await
}
