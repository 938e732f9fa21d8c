//! What a call that names a worker fails with.

use qlora_proto::ListWorkersRequest;
use tonic::{Code, Status};

use crate::context::Context;
use crate::error::{CtlError, Exit};

/// Names that are offered at the most.
const OFFERED: usize = 3;

/// The error of a call for the worker `name`. Where there is none of that name, it says which are
/// called alike.
pub async fn fault(context: &Context, name: &str, status: Status) -> CtlError {
    let near = match status.code() {
        Code::NotFound => alike(name, &known(context).await),
        _ => Vec::new(),
    };
    if near.is_empty() {
        return context.fault()(status);
    }
    CtlError::Refused {
        message: format!("{}; did you mean {}?", status.message(), near.join(" or ")),
        help: "qlora-ctl workers lists them",
        exit: Exit::Refused,
    }
}

/// Names of all workers; none where they are not told.
async fn known(context: &Context) -> Vec<String> {
    let Ok(mut client) = context.client().await else {
        return Vec::new();
    };
    let answer = client.workers.list_workers(ListWorkersRequest {}).await;
    let workers = answer.map(|answer| answer.into_inner().workers);
    let workers = workers.unwrap_or_default().into_iter();
    workers.map(|worker| worker.name).collect()
}

/// Those of `known` for which `name` may be meant, the likeliest first.
fn alike(name: &str, known: &[String]) -> Vec<String> {
    let lower = name.to_lowercase();
    let distance = |other: &String| {
        let other = other.to_lowercase();
        let is_part = lower.len() > 2 && (other.starts_with(&lower) || lower.starts_with(&other));
        let distance = strsim::damerau_levenshtein(&lower, &other);
        (is_part || distance <= 1.max(other.chars().count() / 4)).then_some(distance)
    };
    let near = known
        .iter()
        .filter_map(|other| Some((distance(other)?, other)));
    let mut near: Vec<_> = near.collect();
    near.sort();
    let names = near.into_iter().map(|(_, other)| other.clone());
    names.take(OFFERED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_offered_whose_name_is_alike_and_no_other() {
        let known = ["gpu-0", "gpu-1", "gpu-10", "mac"].map(str::to_owned);
        for (name, wanted) in [
            ("gpu1", &["gpu-1"][..]),
            ("GPU-1", &["gpu-1", "gpu-0", "gpu-10"]),
            ("gpu", &["gpu-0", "gpu-1", "gpu-10"]),
            ("mca", &["mac"]),
            ("other", &[]),
        ] {
            assert_eq!(alike(name, &known), wanted, "{name}");
        }
    }
}
