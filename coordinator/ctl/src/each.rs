//! Does one thing to several jobs, or to several workers.

use std::process::ExitCode;

use qlora_proto::{Job, WorkerInfo};
use serde_json::Value;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{json, print_error, print_json};

/// Does `act` to each of the jobs `ids` in turn. `told` says what became of a job, for people; with
/// `--json` the job itself is printed.
///
/// One that refuses does not keep the others from it: its error is printed, and the exit code is
/// that of the first one.
pub async fn each(
    context: &Context,
    ids: &[u64],
    act: impl AsyncFn(u64) -> Result<Job, CtlError>,
    told: impl Fn(&Job) -> String,
) -> Result<ExitCode, CtlError> {
    all(context, ids, act, |job| json::job(job, None), told).await
}

/// As [`each`], to workers by their names.
pub async fn each_worker(
    context: &Context,
    names: &[String],
    act: impl AsyncFn(String) -> Result<WorkerInfo, CtlError>,
    told: impl Fn(&WorkerInfo) -> String,
) -> Result<ExitCode, CtlError> {
    all(context, names, act, json::worker, told).await
}

async fn all<I: Clone, T>(
    context: &Context,
    items: &[I],
    act: impl AsyncFn(I) -> Result<T, CtlError>,
    value: impl Fn(&T) -> Value,
    told: impl Fn(&T) -> String,
) -> Result<ExitCode, CtlError> {
    let mut first: Option<ExitCode> = None;
    for item in items {
        match act(item.clone()).await {
            Ok(done) if context.global.json => print_json(&value(&done))?,
            Ok(done) => context.say(told(&done)),
            // One that cannot be reached answers for none of the others either.
            Err(fault) if items.len() == 1 || fault.is_unreachable() => return Err(fault),
            Err(fault) => {
                print_error(&fault, context.global.json);
                first.get_or_insert(fault.exit_code());
            }
        }
    }
    Ok(first.unwrap_or(Exit::Done.into()))
}
