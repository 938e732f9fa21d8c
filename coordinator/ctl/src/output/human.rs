//! Tables and lines for people. Text from the wire cannot leave its line.

use qlora_client::console::line;
pub use qlora_proto::words::{bytes, gib};
use qlora_proto::words::{count, duration};
use qlora_proto::{
    Attempt, CallScores, ExplainResponse, Job, Progress, PrunedJob, Scores, StoreUsage,
};

pub use super::table::{Column, number, short, table, text, word};
use super::under;

/// Characters of a cell at the most; the commands for one thing show all of it.
const CELL: usize = 48;

/// A moment, in UTC.
pub fn time(unix_ms: i64) -> String {
    formatted(unix_ms, "%Y-%m-%dT%H:%M:%SZ")
}

/// The day of a moment, in UTC; empty for 0, which is none.
pub fn day(unix_ms: i64) -> String {
    if unix_ms == 0 {
        return String::new();
    }
    formatted(unix_ms, "%Y-%m-%d")
}

fn formatted(unix_ms: i64, form: &str) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .unwrap_or_default()
        .strftime(form)
        .to_string()
}

pub fn jobs(jobs: &[Job]) -> String {
    let mut rows: Vec<Vec<String>> = jobs.iter().map(job_row).collect();
    let mut columns = vec![
        word("JOB", 0),
        text("NAME", 0),
        word("STATE", 0),
        number("STEP", 1),
        number("LOSS", 2),
        number("EVAL", 3),
        number("TOK/S", 6),
        number("LEFT", 4),
        text("WORKER", 5),
    ];
    // These tell something only where jobs differ in them.
    let owner = jobs.first().map(|job| &job.owner);
    if jobs.iter().any(|job| Some(&job.owner) != owner) {
        columns.push(text("USER", 3));
        for (row, job) in rows.iter_mut().zip(jobs) {
            row.push(short(&job.owner, CELL));
        }
    }
    if jobs.iter().any(|job| !job.waits_for.is_empty()) {
        columns.push(text("WAITS FOR", 2));
        for (row, job) in rows.iter_mut().zip(jobs) {
            row.push(short(&numbers(&job.waits_for), CELL));
        }
    }
    table(&columns, &rows)
}

fn job_row(job: &Job) -> Vec<String> {
    let p = job.progress.clone().unwrap_or_default();
    let left = p
        .seconds_left
        .filter(|_| !job.state().is_final())
        .map(duration)
        .unwrap_or_default();
    vec![
        job.id.to_string(),
        short(&job.name, CELL),
        job.state().word().into(),
        if p.steps > 0 {
            format!("{}/{}", p.step, p.steps)
        } else {
            String::new()
        },
        p.loss.map(|l| format!("{l:.3}")).unwrap_or_default(),
        p.last_evaluation
            .map(|l| format!("{l:.3}"))
            .unwrap_or_default(),
        p.tokens_per_second
            .map(|t| format!("{t:.0}"))
            .unwrap_or_default(),
        left,
        short(
            &job.attempts
                .last()
                .map(Attempt::workers)
                .unwrap_or_default(),
            CELL,
        ),
    ]
}

/// Jobs that are to go, with what each frees.
pub fn pruned(jobs: &[PrunedJob]) -> String {
    let row = |job: &PrunedJob| {
        vec![
            job.id.to_string(),
            short(&job.name, CELL),
            job.state().word().into(),
            day(job.ended_unix_ms),
            bytes(job.bytes),
        ]
    };
    let columns = [
        word("JOB", 0),
        text("NAME", 1),
        word("STATE", 0),
        word("ENDED", 0),
        number("SIZE", 0),
    ];
    table(&columns, &jobs.iter().map(row).collect::<Vec<_>>())
}

/// What the coordinator keeps on its disk, in one line.
pub fn usage(usage: &StoreUsage) -> String {
    format!(
        "on the coordinator's disk: database {}, artifacts {}",
        bytes(usage.database_bytes),
        bytes(usage.artifact_bytes)
    )
}

/// One job with everything that a person asks first.
pub fn job(job: &Job, why: Option<&ExplainResponse>) -> String {
    let p = job.progress.clone().unwrap_or_default();
    let mut lines = vec![format!(
        "job {}  {}  {}",
        job.id,
        line(&job.name),
        job.state().word()
    )];
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            lines.push(format!(
                "  {:<13} {}",
                line(name),
                under(&value, &" ".repeat(16))
            ));
        }
    };
    add(
        if why.is_some() {
            "last attempt"
        } else {
            "reason"
        },
        job.reason.clone(),
    );
    add("error code", job.reason_code.clone());
    if let Some(why) = why {
        add("waits", why.summary.clone());
        why.workers
            .iter()
            .for_each(|v| add("", format!("{}: {}", v.worker, v.reason)));
    }
    add(
        "progress",
        if job.state().is_final() {
            String::new()
        } else {
            progress(&p)
        },
    );
    add(
        "steps",
        if p.steps > 0 {
            format!("{}/{}", p.step, p.steps)
        } else {
            String::new()
        },
    );
    add("held-out loss", evaluations(&p));
    add(
        "perplexity",
        p.scores
            .map(|s| format!("{:.3}", s.perplexity))
            .unwrap_or_default(),
    );
    let exact = |s: Scores| {
        s.calls.map(|c| {
            format!(
                "{} exact of {}",
                percent(c.exact_match),
                count(c.rows, "row")
            )
        })
    };
    add("tool calls", p.scores.and_then(exact).unwrap_or_default());
    add(
        "peak memory",
        if p.peak_bytes > 0 {
            gib(p.peak_bytes)
        } else {
            String::new()
        },
    );
    add("user", job.owner.clone());
    add("after", after(job));
    add("config", job.config_hash.chars().take(12).collect());
    for file in &job.files {
        add(&file.role, format!("{} ({})", file.name, bytes(file.size)));
    }
    for attempt in &job.attempts {
        let outcome = if attempt.outcome.is_empty() {
            "running"
        } else {
            &attempt.outcome
        };
        add(
            "attempt",
            format!("{} on {}: {outcome}", attempt.number, attempt.workers()),
        );
    }
    for artifact in &job.artifacts {
        add(
            &artifact.kind,
            format!("{} ({})", artifact.name, bytes(artifact.size)),
        );
    }
    add("deleted", gone(job).into());
    lines.join("\n")
}

fn numbers(ids: &[u64]) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    ids.join(", ")
}

/// Jobs that a job was to come after, and those of them that it still waits for.
fn after(job: &Job) -> String {
    let end = if job.after_any { " (any end)" } else { "" };
    match (job.after.as_slice(), job.waits_for.as_slice()) {
        ([], _) => String::new(),
        (all, []) => format!("{}{end}", numbers(all)),
        (all, open) => format!("{}{end}; waits for {}", numbers(all), numbers(open)),
    }
}

/// What was deleted of a job after its end.
fn gone(job: &Job) -> &'static str {
    match (job.artifacts_pruned, job.records_pruned) {
        (true, true) => "checkpoints, adapters, metrics and log",
        (true, false) => "checkpoints and adapters",
        (false, true) => "metrics and log",
        (false, false) => "",
    }
}

/// Scores of ended jobs, a column each.
pub fn scores(scored: &[(&str, Job)]) -> String {
    let found: Vec<Scores> = scored
        .iter()
        .filter_map(|(_, job)| job.progress.as_ref()?.scores)
        .collect();
    let row = |name: &str, cell: &dyn Fn(&Scores) -> String| {
        std::iter::once(name.to_owned())
            .chain(found.iter().map(cell))
            .collect::<Vec<_>>()
    };
    let mut rows = vec![
        row("rows", &|s| s.rows.to_string()),
        row("loss", &|s| format!("{:.4}", s.loss)),
        row("perplexity", &|s| format!("{:.3}", s.perplexity)),
    ];
    if found.iter().any(|s| s.calls.is_some()) {
        let share = |of: fn(&CallScores) -> f64| {
            move |s: &Scores| s.calls.map_or_else(String::new, |c| percent(of(&c)))
        };
        rows.extend([
            row("rows with calls", &|s| {
                s.calls.map_or(0, |c| c.rows).to_string()
            }),
            row("  valid JSON", &share(|c| c.valid_json)),
            row("  fits schema", &share(|c| c.schema_valid)),
            row("  right functions", &share(|c| c.names_match)),
            row("  all exact", &share(|c| c.exact_match)),
        ]);
    }
    let scored = scored.iter().map(|(what, _)| number(what, 0));
    let columns: Vec<Column<'_>> = std::iter::once(word("", 0)).chain(scored).collect();
    table(&columns, &rows)
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn evaluations(p: &Progress) -> String {
    match (p.first_evaluation, p.last_evaluation) {
        (Some(first), Some(last)) => format!("{first:.4} before, {last:.4} now"),
        (None, Some(last)) => format!("{last:.4}"),
        _ => String::new(),
    }
}

/// Where a job stands, in one line.
pub fn progress(p: &Progress) -> String {
    if p.phase != "training" || p.steps == 0 {
        let phase = line(&p.phase);
        return if p.phase_of > 0 {
            format!("{phase} {}/{}", p.phase_done, p.phase_of)
        } else {
            phase.into_owned()
        };
    }
    let mut parts = vec![format!(
        "{}/{} {}%",
        p.step,
        p.steps,
        100 * p.step / p.steps
    )];
    parts.extend(p.loss.map(|l| format!("loss {l:.3}")));
    parts.extend(p.last_evaluation.map(|l| format!("eval {l:.3}")));
    parts.extend(p.learning_rate.map(|l| format!("lr {l:.1e}")));
    parts.extend(p.tokens_per_second.map(|t| format!("{t:.0} tok/s")));
    if p.peak_bytes > 0 {
        parts.push(bytes(p.peak_bytes));
    }
    parts.extend(p.seconds_left.map(|s| format!("left {}", duration(s))));
    parts.join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_job_takes_one_line_of_a_table_and_moves_no_column() {
        let hostile = Job {
            id: 1,
            name: "a\nJOB 2\r\u{1b}[2K\u{202e}".into(),
            ..Job::default()
        };
        let long = Job {
            id: 2,
            name: "n".repeat(30_000),
            ..Job::default()
        };
        let said = jobs(&[hostile, long]);
        assert_eq!(said.lines().count(), 3);
        assert!(said.contains("a JOB 2 \\u{1b}[2K\\u{202e} "), "{said}");
        assert!(
            said.lines().all(|line| line.chars().count() < 120),
            "{said}"
        );
    }
}
