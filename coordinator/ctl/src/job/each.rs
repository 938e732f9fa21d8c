//! Does one thing to several jobs.

use std::process::ExitCode;

use qlora_proto::Job;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print_error, print_json};

/// Does `act` to each of `ids` in turn. `told` says what became of a job, for people; with `--json`
/// the job itself is printed.
///
/// A job that refuses does not keep the others from it: its error is printed, and the exit code is
/// that of the first one.
pub async fn each(
    context: &Context,
    ids: &[u64],
    act: impl AsyncFn(u64) -> Result<Job, CtlError>,
    told: impl Fn(&Job) -> String,
) -> Result<ExitCode, CtlError> {
    let mut first: Option<ExitCode> = None;
    for &id in ids {
        match act(id).await {
            Ok(job) if context.global.json => print_json(&json::job(&job, None))?,
            Ok(job) => context.say(told(&job)),
            // One that cannot be reached answers for none of the others either.
            Err(fault) if ids.len() == 1 || fault.is_unreachable() => return Err(fault),
            Err(fault) => {
                print_error(&fault, context.global.json);
                first.get_or_insert(fault.exit_code());
            }
        }
    }
    Ok(first.unwrap_or(Exit::Done.into()))
}
