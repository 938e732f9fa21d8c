//! The program; what it does is in the library of the same name.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// A training step takes and gives back the same large buffers; the system's allocator returns them
/// to the kernel and faults them in again, a tenth of the time of a step.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    qlora_worker::run()
}
