//! One job: figures, curve, answers, log.

use maud::{Markup, html};
use qlora_proto::words::{bytes, count, duration, gib};
use qlora_proto::{ExplainResponse, Job, JobState, Progress};
use qlora_store::LogRecord;

use super::curve::Curve;
use super::jobs::number;
use super::sessions::form_key;
use super::{chart, layout};

/// Every section is always there, also where it has nothing to show, so that each can be renewed in
/// its place. Who may do something to the job has the `key` of its forms.
pub fn page(
    job: &Job,
    why: Option<&ExplainResponse>,
    curve: &Curve,
    logs: &[LogRecord],
    key: Option<&str>,
) -> Markup {
    let p = job.progress.clone().unwrap_or_default();
    layout::page(
        &format!("job {}", job.id),
        &html! {
            section {
                h1 { "Job " (job.id) " " (job.name) " " span class=(job.state().word()) { "● " (job.state().word()) } }
                (reason(job, why))
            }
            section { @if let Some(key) = key { (hold(job, key)) (cancel(job, key)) } }
            section {
                (figures(job, &p))
                @if p.steps > 0 { progress max=(p.steps) value=(p.step) aria-label="steps done" {} }
            }
            section { h2 { "Loss" } (chart::loss(curve)) }
            section { (scores(&p)) }
            section { (samples(&p)) }
            section { (attempts(job)) }
            section { (artifacts(job)) }
            section { h2 { "Log" } (log(job, logs)) }
            section { details #config { summary { "Configuration" } pre { (pretty(&job.config_json)) } } }
        },
    )
}

/// Why it failed or was cancelled; why it waits, and how its last attempt ended.
fn reason(job: &Job, why: Option<&ExplainResponse>) -> Markup {
    html! {
        @if let Some(why) = why {
            p { (why.summary) }
            @if !why.workers.is_empty() { ul { @for v in &why.workers { li { (v.worker) ": " (v.reason) } } } }
            @if !job.reason.is_empty() { p { "Last attempt: " (job.reason) } }
        } @else if !job.reason.is_empty() {
            p { (job.reason) }
        }
        @if !job.reason_code.is_empty() {
            p .dim { "Error code " (job.reason_code) ": " code { "qlora-ctl explain " (job.reason_code) } }
        }
    }
}

/// Pauses the job, or lets it go on.
fn hold(job: &Job, key: &str) -> Markup {
    let (act, word, then) = match job.state() {
        JobState::Paused => ("resume", "Resume", "It goes on from its newest checkpoint."),
        state if state.is_final() => return html! {},
        _ => (
            "pause",
            "Pause",
            "A running attempt saves a checkpoint first.",
        ),
    };
    html! {
        form #hold method="post" action={ "/j/" (job.id) "/" (act) } {
            (form_key(key))
            button type="submit" { (word) " job " (job.id) }
            span .dim { " " (then) }
        }
    }
}

/// In two steps, since a job cannot be brought back.
fn cancel(job: &Job, key: &str) -> Markup {
    html! {
        @if !job.state().is_final() {
            details #cancel {
                summary { "Cancel" }
                form method="post" action={ "/j/" (job.id) "/cancel" } {
                    (form_key(key))
                    button type="submit" { "Cancel job " (job.id) }
                    span .dim { " A running attempt saves a checkpoint first; what is saved stays." }
                }
            }
        }
    }
}

fn log(job: &Job, logs: &[LogRecord]) -> Markup {
    let is_cut = logs.first().is_some_and(|line| line.seq > 1);
    html! {
        @if is_cut { p .dim { "The last " (count(logs.len() as u64, "line")) "; all: " code { "qlora-ctl logs " (job.id) } } }
        pre { @for line in logs { (line.text) "\n" } }
    }
}

fn figures(job: &Job, p: &Progress) -> Markup {
    let left = p.seconds_left.map(duration).unwrap_or_default();
    let all = [
        (
            "phase",
            if p.phase_of > 0 {
                format!("{} {}/{}", p.phase, p.phase_done, p.phase_of)
            } else {
                p.phase.clone()
            },
        ),
        (
            "step",
            if p.steps > 0 {
                format!("{}/{}", p.step, p.steps)
            } else {
                String::new()
            },
        ),
        ("loss", number(p.loss, 4)),
        ("held-out before", number(p.first_evaluation, 4)),
        ("held-out now", number(p.last_evaluation, 4)),
        ("tokens/s", number(p.tokens_per_second, 0)),
        (
            "peak memory",
            if p.peak_bytes > 0 {
                gib(p.peak_bytes)
            } else {
                String::new()
            },
        ),
        ("left", left),
        ("user", job.owner.clone()),
        ("after", after(job)),
        ("configuration", job.config_hash.chars().take(12).collect()),
    ];
    html! {
        div .figures { @for (name, value) in all.iter().filter(|(_, v)| !v.is_empty()) { div { span { (name) } (value) } } }
    }
}

/// Jobs that it was to come after.
fn after(job: &Job) -> String {
    let ids: Vec<String> = job.after.iter().map(u64::to_string).collect();
    let end = if job.after_any { " (any end)" } else { "" };
    match ids.len() {
        0 => String::new(),
        _ => format!("{}{end}", ids.join(", ")),
    }
}

fn scores(p: &Progress) -> Markup {
    let share = |share: f64| format!("{:.1} %", 100.0 * share);
    html! {
        @if let Some(s) = &p.scores {
            h2 { "Scores" }
            div .figures {
                div { span { "rows" } (s.rows) }
                div { span { "perplexity" } (format!("{:.3}", s.perplexity)) }
                @if let Some(c) = &s.calls {
                    div { span { "valid JSON" } (share(c.valid_json)) }
                    div { span { "fits schema" } (share(c.schema_valid)) }
                    div { span { "right functions" } (share(c.names_match)) }
                    div { span { "all exact" } (share(c.exact_match)) }
                }
            }
        }
    }
}

fn samples(p: &Progress) -> Markup {
    html! {
        @if !p.samples.is_empty() {
            h2 { "Answers to a held-out question" }
            div .scroll {
                table {
                    thead { tr { th { "After step" } th { "Answer" } } }
                    tbody {
                        @for s in &p.samples { tr { td { (s.step) } td .wide { code { (s.answer) } } } }
                        @if let Some(s) = p.samples.last() { tr { td { "wanted" } td .wide { code { (s.wanted) } div .dim { (s.prompt) } } } }
                    }
                }
            }
        }
    }
}

fn attempts(job: &Job) -> Markup {
    html! {
        @if !job.attempts.is_empty() {
            h2 { "Attempts" }
            div .scroll {
                table {
                    thead { tr { th { "Attempt" } th { "Worker" } th { "Outcome" } } }
                    tbody {
                        @for a in &job.attempts {
                            tr { td { (a.number) } td { (a.workers()) } td .wide { @if a.outcome.is_empty() { "running" } @else { (a.outcome) } } }
                        }
                    }
                }
            }
        }
    }
}

fn artifacts(job: &Job) -> Markup {
    html! {
        @if !job.artifacts.is_empty() {
            h2 { "Artifacts" }
            div .scroll {
                table {
                    thead { tr { th { "Kind" } th { "Name" } th .num { "Step" } th .num { "Size" } th { "SHA-256" } } }
                    tbody {
                        @for a in &job.artifacts {
                            tr { td { (a.kind) } td { a href={ "/j/" (job.id) "/artifacts/" (segment(&a.name)) } download { (a.name) } } td .num { (a.step) } td .num { (bytes(a.size)) } td { code { (&a.digest[..12.min(a.digest.len())]) } } }
                        }
                    }
                }
            }
        }
    }
}

/// `name` as one part of an address.
fn segment(name: &str) -> String {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let encode = |b: u8| {
        if is_plain(b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    name.bytes().map(encode).collect()
}

fn pretty(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    format!("{value:#}")
}
