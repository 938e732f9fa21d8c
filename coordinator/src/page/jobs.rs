//! The list of jobs and of workers.

use maud::{Markup, html};
use qlora_engine::Now;
use qlora_proto::words::gib;
use qlora_proto::{Attempt, Drain, Job, WorkerInfo};

use super::layout;

pub fn page(jobs: &[Job], workers: &[WorkerInfo], drained: Option<&Drain>, now: Now) -> Markup {
    layout::page(
        "jobs",
        &html! {
            section {
                h1 { "Jobs" }
                @if let Some(drain) = drained {
                    p { "No job starts, the queue is drained " (drain.words(now.wall.0 as i64)) ". " code { "qlora-ctl undrain --queue" } " ends it." }
                }
                @if jobs.is_empty() {
                    p .dim { "No job yet. Submit one with " code { "qlora-ctl submit config.yaml --watch" } "." }
                } @else {
                    (job_table(jobs))
                }
            }
            section {
                h1 { "Workers" }
                @if workers.is_empty() {
                    p .dim { "No worker yet. On each machine: " code { "qlora-worker --coordinator ADDR" } "." }
                } @else {
                    (worker_table(workers, now))
                }
            }
        },
    )
}

fn job_table(jobs: &[Job]) -> Markup {
    html! {
        div .scroll {
            table {
                thead { tr { th { "Job" } th { "Name" } th { "User" } th { "State" } th .num { "Step" } th .num { "Loss" } th .num { "Held-out" } th .num { "Tokens/s" } th { "Worker" } } }
                tbody { @for job in jobs { (job_row(job)) } }
            }
        }
    }
}

fn job_row(job: &Job) -> Markup {
    let p = job.progress.clone().unwrap_or_default();
    let worker = job
        .attempts
        .last()
        .map(Attempt::workers)
        .unwrap_or_default();
    html! {
        tr {
            td { a href={ "/j/" (job.id) } { (job.id) } }
            td title=(job.name) { (shorten(&job.name)) }
            td { (job.owner) }
            td class=(job.state().word()) { (job.state().word()) @if !job.reason.is_empty() { span .dim title=(job.reason) { " " (shorten(&job.reason)) } } }
            td .num { @if p.steps > 0 { (p.step) "/" (p.steps) } }
            td .num { (number(p.loss, 3)) }
            td .num { (number(p.last_evaluation, 3)) }
            td .num { (number(p.tokens_per_second, 0)) }
            td { (worker) }
        }
    }
}

fn worker_table(workers: &[WorkerInfo], now: Now) -> Markup {
    html! {
        div .scroll {
            table {
                thead { tr { th { "Worker" } th { "Device" } th .num { "Memory" } th { "State" } th { "Version" } } }
                tbody { @for worker in workers { (worker_row(worker, now)) } }
            }
        }
    }
}

fn worker_row(worker: &WorkerInfo, now: Now) -> Markup {
    let platform = worker.platform.clone().unwrap_or_default();
    let state = match (worker.connected, worker.running_job) {
        (false, _) => "away".to_owned(),
        (true, 0) if worker.drained.is_some() => "drained".to_owned(),
        (true, 0) if !worker.set_aside.is_empty() => "set aside".to_owned(),
        (true, 0) if worker.draining => "draining".to_owned(),
        (true, 0) => "idle".to_owned(),
        (true, job) => format!("runs job {job}"),
    };
    let drained = worker.drained.as_ref().map(|drain| {
        let since = drain.words(now.wall.0 as i64);
        match state.as_str() {
            "drained" => since,
            _ => format!("drained {since}"),
        }
    });
    html! {
        tr {
            td { (worker.name) }
            td { (platform.device_class().word()) " · " (platform.device_name) }
            td .num { (gib(platform.device_memory)) }
            td title=(worker.set_aside) { (state) @if let Some(why) = drained { span .dim title=(why) { " " (shorten(&why)) } } }
            td { (platform.version) }
        }
    }
}

pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map(|v| format!("{v:.digits$}")).unwrap_or_default()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(59).chain(['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_set_aside_says_so_and_why() {
        let worker = WorkerInfo {
            name: "a".into(),
            connected: true,
            ..WorkerInfo::default()
        };
        let aside = WorkerInfo {
            set_aside: "3 jobs failed on a".into(),
            ..worker.clone()
        };
        let shown = |worker: WorkerInfo| worker_table(&[worker], Now::both(0)).into_string();
        assert!(
            shown(worker.clone()).contains(">idle<"),
            "{}",
            shown(worker.clone())
        );
        let text = shown(aside.clone());
        assert!(
            text.contains("title=\"3 jobs failed on a\">set aside<"),
            "{text}"
        );
        assert!(
            shown(WorkerInfo {
                running_job: 4,
                ..aside
            })
            .contains("runs job 4")
        );
        assert!(
            shown(WorkerInfo {
                connected: false,
                ..worker
            })
            .contains(">away<")
        );
    }

    #[test]
    fn a_drained_worker_says_so_since_when_and_why_whatever_it_does() {
        let drained = qlora_proto::Drain {
            since_unix_ms: 1_000,
            reason: "new disk".into(),
        };
        let worker = WorkerInfo {
            connected: true,
            drained: Some(drained),
            ..WorkerInfo::default()
        };
        let busy = WorkerInfo {
            running_job: 4,
            ..worker.clone()
        };
        let shown = |worker| worker_table(&[worker], Now::both(61_000)).into_string();
        let (idle, busy) = (shown(worker), shown(busy));
        assert!(idle.contains(">drained<"), "{idle}");
        assert!(idle.contains("> for 1 min 00 s: new disk<"), "{idle}");
        assert!(busy.contains(">runs job 4<"), "{busy}");
        assert!(
            busy.contains("> drained for 1 min 00 s: new disk<"),
            "{busy}"
        );
    }
}
