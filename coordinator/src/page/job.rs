//! One job: figures, curve, answers, log.

use maud::{Markup, html};
use qlora_proto::{Job, Progress};
use qlora_store::{LogRecord, MetricRecord};

use super::jobs::number;
use super::{chart, layout};

pub fn page(job: &Job, metrics: &[MetricRecord], logs: &[LogRecord]) -> Markup {
    let p = job.progress.clone().unwrap_or_default();
    layout::page(
        &format!("job {}", job.id),
        &html! {
            h1 { "Job " (job.id) " " (job.name) " " span class=(job.state().word()) { "● " (job.state().word()) } }
            @if !job.reason.is_empty() { p { (job.reason) } }
            (figures(job, &p))
            @if p.steps > 0 { progress max=(p.steps) value=(p.step) aria-label="steps done" {} }
            h2 { "Loss" }
            (chart::loss(metrics))
            (scores(&p))
            (samples(&p))
            (attempts(job))
            (artifacts(job))
            h2 { "Log" }
            pre { @for line in logs { (line.text) "\n" } }
            details #config { summary { "Configuration" } pre { (pretty(&job.config_json)) } }
        },
    )
}

fn figures(job: &Job, p: &Progress) -> Markup {
    let gib = p.peak_bytes as f64 / (1u64 << 30) as f64;
    let left = p.seconds_left.map(|s| format!("{:.0} min {:.0} s", (s / 60.0).floor(), s % 60.0)).unwrap_or_default();
    let all = [
        (
            "phase",
            if p.phase_of > 0 { format!("{} {}/{}", p.phase, p.phase_done, p.phase_of) } else { p.phase.clone() },
        ),
        ("step", if p.steps > 0 { format!("{}/{}", p.step, p.steps) } else { String::new() }),
        ("loss", number(p.loss, 4)),
        ("held-out before", number(p.first_evaluation, 4)),
        ("held-out now", number(p.last_evaluation, 4)),
        ("tokens/s", number(p.tokens_per_second, 0)),
        ("peak memory", if p.peak_bytes > 0 { format!("{gib:.2} GiB") } else { String::new() }),
        ("left", left),
        ("configuration", job.config_hash.chars().take(12).collect()),
    ];
    html! {
        div .figures { @for (name, value) in all.iter().filter(|(_, v)| !v.is_empty()) { div { span { (name) } (value) } } }
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
                            tr { td { (a.token) } td { (a.workers()) } td .wide { @if a.outcome.is_empty() { "running" } @else { (a.outcome) } } }
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
                            tr { td { (a.kind) } td { (a.name) } td .num { (a.step) } td .num { (format!("{:.1} MB", a.size as f64 / 1e6)) } td { code { (&a.digest[..12.min(a.digest.len())]) } } }
                        }
                    }
                }
            }
        }
    }
}

fn pretty(json: &str) -> String {
    let value: serde_json::Value = serde_json::from_str(json).unwrap_or_default();
    format!("{value:#}")
}
