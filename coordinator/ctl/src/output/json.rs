//! The wire's messages as JSON, with the words that people see. Every object carries the version of
//! its form.

use qlora_client::console;
use qlora_config::{Diagnostic, Warning};
use qlora_proto::{
    Attempt, ConfigRevision, Drain, Event, ExplainResponse, Job, JobArtifact, LogLine, MetricPoint,
    PrunedJob, Scores, TokenInfo, WorkerInfo, WorkerVerdict,
};
use serde_json::{Value, json};

/// JSON has no number that is not finite; such a value is the text `NaN`, `Infinity` or
/// `-Infinity`.
pub fn number(x: f64) -> Value {
    console::not_finite(x).map_or_else(|| x.into(), Value::from)
}

/// Faults or warnings of a configuration.
pub fn diagnostic(fault: &Diagnostic) -> Value {
    let place = fault.place.as_ref().map(ToString::to_string);
    json!({"code": fault.code.id(), "message": fault.message, "help": fault.help, "place": place})
}

pub fn warnings(warnings: &[Warning]) -> Vec<Value> {
    warnings
        .iter()
        .map(|warning| diagnostic(&warning.0))
        .collect()
}

fn maybe(x: Option<f64>) -> Value {
    x.map_or(Value::Null, number)
}

/// A job, and for one that waits, why it does.
pub fn job(job: &Job, why: Option<&ExplainResponse>) -> Value {
    let p = job.progress.clone().unwrap_or_default();
    let samples: Vec<_> = p
        .samples
        .iter()
        .map(
            |s| json!({"step": s.step, "prompt": s.prompt, "wanted": s.wanted, "answer": s.answer}),
        )
        .collect();
    json!({
        "v": 1,
        "job": job.id,
        "name": job.name,
        "state": job.state().word(),
        "reason": job.reason,
        "reason_code": if job.reason_code.is_empty() { None } else { Some(&job.reason_code) },
        "waits": why.map(|why| explanation(job.id, why)),
        "phase": p.phase,
        "phase_done": p.phase_done,
        "phase_of": p.phase_of,
        "step": p.step,
        "steps": p.steps,
        "loss": maybe(p.loss),
        "learning_rate": maybe(p.learning_rate),
        "tok_s": maybe(p.tokens_per_second),
        "first_eval": maybe(p.first_evaluation),
        "eval": maybe(p.last_evaluation),
        "eta_s": maybe(p.seconds_left),
        "peak_bytes": p.peak_bytes,
        "samples": samples,
        "scores": p.scores.as_ref().map(scores),
        "worker": job.attempts.last().map(|a| a.worker.clone()),
        "attempts": job.attempts.iter().map(attempt).collect::<Vec<_>>(),
        "artifacts": job.artifacts.iter().map(artifact).collect::<Vec<_>>(),
        "files": job.files.iter().map(|f| json!({"role": f.role, "name": f.name, "digest": f.digest, "size": f.size})).collect::<Vec<_>>(),
        "retry_of": Some(job.retry_of).filter(|id| *id > 0),
        "priority": job.priority,
        "owner": if job.owner.is_empty() { None } else { Some(&job.owner) },
        "after": job.after,
        "after_any": job.after_any,
        "waits_for": job.waits_for,
        "artifacts_pruned": job.artifacts_pruned,
        "logs_pruned": job.records_pruned,
        "config_hash": job.config_hash,
        "config": serde_json::from_str::<Value>(&job.config_json).unwrap_or_default(),
        "created_unix_ms": job.created_unix_ms,
        "ended_unix_ms": job.ended_unix_ms,
    })
}

pub fn scores(s: &Scores) -> Value {
    let calls = s.calls.as_ref().map(|c| {
        json!({
            "rows": c.rows,
            "valid_json": number(c.valid_json),
            "schema_valid": number(c.schema_valid),
            "names_match": number(c.names_match),
            "exact_match": number(c.exact_match),
        })
    });
    json!({"rows": s.rows, "tokens": s.tokens, "loss": number(s.loss), "perplexity": number(s.perplexity), "calls": calls})
}

fn attempt(a: &Attempt) -> Value {
    json!({"attempt": a.number, "worker": a.worker, "others": a.others, "started_unix_ms": a.started_unix_ms, "ended_unix_ms": a.ended_unix_ms, "outcome": a.outcome})
}

pub fn artifact(a: &JobArtifact) -> Value {
    json!({"kind": a.kind, "name": a.name, "digest": a.digest, "size": a.size, "step": a.step})
}

/// An ended job that is gone, or of which a part is, or would be.
pub fn pruned(job: &PrunedJob) -> Value {
    json!({"v": 1, "job": job.id, "name": job.name, "state": job.state().word(), "ended_unix_ms": job.ended_unix_ms, "bytes": job.bytes})
}

/// The jobs of [`pruned`] together.
pub fn pruned_in_all(jobs: u64, bytes: u64, dry_run: bool) -> Value {
    json!({"v": 1, "jobs": jobs, "bytes": bytes, "dry_run": dry_run})
}

pub fn worker(w: &WorkerInfo) -> Value {
    let p = w.platform.clone().unwrap_or_default();
    json!({
        "v": 1,
        "worker": w.name,
        "connected": w.connected,
        "draining": w.draining,
        "drained": w.drained.as_ref().map(drain),
        "set_aside": if w.set_aside.is_empty() { None } else { Some(&w.set_aside) },
        "job": if w.running_job == 0 { None } else { Some(w.running_job) },
        "last_seen_unix_ms": w.last_seen_unix_ms,
        "device": p.device_class().word(),
        "device_name": p.device_name,
        "device_memory": p.device_memory,
        "device_memory_free": p.device_memory_free,
        "compute_capability": p.compute_capability,
        "driver": p.driver,
        "cpu_model": p.cpu_model,
        "cpu_cores": p.cpu_cores,
        "memory": p.memory,
        "disk_free": p.disk_free,
        "bf16": p.bf16,
        "flash_attention": p.flash_attention,
        "os": p.os,
        "labels": p.labels,
        "models": p.models,
        "version": p.version,
    })
}

fn drain(d: &Drain) -> Value {
    json!({"since_unix_ms": d.since_unix_ms, "reason": d.reason})
}

/// Whether jobs start; and how many run, where that was told.
pub fn queue(drained: Option<&Drain>, running: Option<u64>) -> Value {
    json!({"v": 1, "queue": true, "drained": drained.map(drain), "running": running})
}

pub fn metric(m: &MetricPoint) -> Value {
    let mut value = json!({"v": 1, "seq": m.seq, "step": m.step, "unix_ms": m.unix_ms});
    let mut names: Vec<_> = m.values.keys().collect();
    names.sort();
    for name in names {
        value[name] = number(m.values[name]);
    }
    value
}

pub fn log(l: &LogLine) -> Value {
    json!({"v": 1, "seq": l.seq, "unix_ms": l.unix_ms, "level": l.level, "text": l.text, "attempt": l.attempt})
}

pub fn config(c: &ConfigRevision) -> Value {
    json!({"v": 1, "name": c.name, "revision": c.revision, "hash": c.hash, "created_unix_ms": c.created_unix_ms, "yaml": c.yaml})
}

/// Of times and days that are 0 where there are none.
fn some(unix_ms: i64) -> Option<i64> {
    Some(unix_ms).filter(|at| *at > 0)
}

pub fn token(t: &TokenInfo) -> Value {
    json!({
        "v": 1,
        "id": t.id,
        "name": if t.name.is_empty() { None } else { Some(&t.name) },
        "role": t.role,
        "created_unix_ms": t.created_unix_ms,
        "expires_unix_ms": some(t.expires_unix_ms),
        "last_used_unix_ms": some(t.last_used_unix_ms),
        "revoked_unix_ms": some(t.revoked_unix_ms),
    })
}

/// What somebody asked for.
pub fn event(e: &Event) -> Value {
    json!({
        "v": 1,
        "seq": e.seq,
        "unix_ms": e.unix_ms,
        "who": e.who,
        "from": e.from,
        "act": e.act,
        "job": Some(e.job).filter(|id| *id > 0),
        "worker": if e.worker.is_empty() { None } else { Some(&e.worker) },
        "kind": e.kind,
        "text": e.text,
    })
}

/// Why a job waits, or what it does instead.
pub fn explanation(job: u64, why: &ExplainResponse) -> Value {
    json!({"v": 1, "job": job, "summary": why.summary, "workers": why.workers.iter().map(verdict).collect::<Vec<_>>()})
}

fn verdict(v: &WorkerVerdict) -> Value {
    json!({"worker": v.worker, "fits": v.fits, "reason": v.reason})
}

#[cfg(test)]
mod tests {
    use qlora_proto::Progress;

    use super::*;

    #[test]
    fn a_number_that_is_not_finite_stays_what_it_is() {
        let values = [
            ("loss", f64::NAN),
            ("grad_norm", f64::INFINITY),
            ("x", f64::NEG_INFINITY),
            ("y", 1.5),
        ];
        let values = values.map(|(name, value)| (name.to_owned(), value)).into();
        let point = metric(&MetricPoint {
            seq: 1,
            step: 1,
            unix_ms: 0,
            values,
        });
        assert_eq!(point["loss"], "NaN");
        assert_eq!(
            (&point["grad_norm"], &point["x"], &point["y"]),
            (&"Infinity".into(), &"-Infinity".into(), &1.5.into())
        );
        let scores = Scores {
            loss: f64::NAN,
            perplexity: f64::INFINITY,
            ..Scores::default()
        };
        let progress = Progress {
            loss: Some(f64::NAN),
            scores: Some(scores),
            ..Progress::default()
        };
        let job = job(
            &Job {
                progress: Some(progress),
                ..Job::default()
            },
            None,
        );
        assert_eq!(
            (&job["loss"], &job["learning_rate"]),
            (&"NaN".into(), &Value::Null)
        );
        assert_eq!(
            (&job["scores"]["loss"], &job["scores"]["perplexity"]),
            (&"NaN".into(), &"Infinity".into())
        );
    }
}
