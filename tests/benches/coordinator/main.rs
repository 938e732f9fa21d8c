//! `cargo bench --bench coordinator -- MODE`: what the coordinator itself takes.
//!
//! The coordinator is the real program on a disk of its own. Workers speak the real protocol over
//! loopback. But for one mode no process is started for a job, so that the figures are the
//! coordinator's own. What is measured is printed as one JSON object a line, and at the end as a table.

mod arguments;
mod dispatch;
mod engine;
mod finished;
mod fleet;
mod process;
mod report;
mod stamp;
mod worker;

use arguments::{Mode, USAGE};
use report::Report;

#[tokio::main]
async fn main() {
    let mode = match Mode::read(std::env::args().skip(1)) {
        Ok(mode) => mode,
        Err(fault) => {
            eprintln!("{fault}\n\n{USAGE}");
            std::process::exit(2);
        }
    };
    let mut report = Report::default();
    match mode {
        Mode::Dispatch(wanted) => dispatch::run(wanted, &mut report).await,
        Mode::Fleet(wanted) => fleet::run(wanted, &mut report).await,
        Mode::Stamp(wanted) => stamp::run(wanted, &mut report).await,
        Mode::Growth(wanted) => engine::run(&wanted, &mut report),
        Mode::Finished(wanted) => finished::run(wanted, &mut report).await,
    }
    report.print_table();
}
