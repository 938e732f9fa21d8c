//! The program; what it does is in the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    qlora_ctl::run()
}
