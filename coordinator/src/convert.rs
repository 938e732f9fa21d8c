//! Conversions between the wire and the domain. Input is checked here, once.

use std::collections::BTreeSet;
use std::str::FromStr;

use qlora_engine as domain;
use qlora_engine::{JobId, JobState, SessionId, Token};
use qlora_proto as wire;
use qlora_store::{
    By, ConfigRevision, Digest256, JournalEntry, LogRecord, MetricRecord, TokenRecord,
};

use crate::error::CallError;
use crate::names;

pub fn job(job: &domain::Job) -> wire::Job {
    let (reason, ended) = reason_and_end(job);
    let reason_code = match &job.state {
        JobState::Failed { code, .. } => code.clone(),
        _ => String::new(),
    };
    wire::Job {
        id: job.id.0,
        name: job.spec.name.clone(),
        kind: kind(job.spec.kind).into(),
        state: names::job_state(&job.state).into(),
        reason,
        config_json: job.spec.config_json.clone(),
        config_hash: job.spec.config_hash.clone(),
        attempts: (1..).zip(&job.attempts).map(attempt).collect(),
        progress: Some(progress(&job.progress)),
        files: job.spec.files.iter().map(file).collect(),
        artifacts: job.artifacts.iter().map(artifact).collect(),
        created_unix_ms: job.created.0 as i64,
        ended_unix_ms: ended.map_or(0, |t| t.0 as i64),
        reason_code,
        retry_of: job.spec.retry_of.map_or(0, |id| id.0),
        priority: job.spec.priority,
        artifacts_pruned: job.pruned.artifacts,
        records_pruned: job.pruned.records,
        owner: job.spec.owner.clone(),
        after: job.spec.after.jobs.iter().map(|id| id.0).collect(),
        after_any: job.spec.after.any,
        waits_for: job.waits_for.iter().map(|id| id.0).collect(),
    }
}

pub fn kind(kind: domain::JobKind) -> wire::JobKind {
    match kind {
        domain::JobKind::Train => wire::JobKind::Train,
        domain::JobKind::Eval => wire::JobKind::Eval,
        domain::JobKind::Noop => wire::JobKind::Noop,
    }
}

/// Why the job is in its state, and when it ended.
fn reason_and_end(job: &domain::Job) -> (String, Option<domain::Millis>) {
    match &job.state {
        JobState::Queued { .. } => {
            let last = job.attempts.last().and_then(|a| a.end.as_ref());
            (last.map(|e| e.message.clone()).unwrap_or_default(), None)
        }
        JobState::Running { stopping, .. } => (
            stopping
                .as_ref()
                .map(|stop| stop.reason.clone())
                .unwrap_or_default(),
            None,
        ),
        JobState::Paused { reason, .. } => (reason.clone(), None),
        JobState::Succeeded { at } => (String::new(), Some(*at)),
        JobState::Failed { at, reason, .. } | JobState::Cancelled { at, reason } => {
            (reason.clone(), Some(*at))
        }
    }
}

fn attempt((number, attempt): (u64, &domain::Attempt)) -> wire::Attempt {
    let outcome = |end: &domain::AttemptEnd| {
        let word = match end.outcome {
            domain::Outcome::Succeeded => "succeeded",
            domain::Outcome::BadInput => "bad input",
            domain::Outcome::OutOfMemory => "out of memory",
            domain::Outcome::Failed => "failed",
            domain::Outcome::NoRoom => "no room",
            domain::Outcome::Stopped => "stopped",
            domain::Outcome::Lost => "lost",
            domain::Outcome::PeerLost => "left alone",
        };
        if end.message.is_empty() {
            word.to_owned()
        } else {
            format!("{word}: {}", end.message)
        }
    };
    wire::Attempt {
        number,
        worker: attempt.worker.clone(),
        started_unix_ms: attempt.started.0 as i64,
        ended_unix_ms: attempt.end.as_ref().map_or(0, |e| e.at.0 as i64),
        outcome: attempt.end.as_ref().map(outcome).unwrap_or_default(),
        others: attempt.others.iter().map(|m| m.worker.clone()).collect(),
    }
}

pub fn progress(p: &domain::Progress) -> wire::Progress {
    let sample = |s: &domain::Sample| wire::Sample {
        step: s.step,
        prompt: s.prompt.clone(),
        wanted: s.wanted.clone(),
        answer: s.answer.clone(),
    };
    wire::Progress {
        phase: p.phase.clone(),
        phase_done: p.phase_done,
        phase_of: p.phase_of,
        step: p.step,
        steps: p.steps,
        loss: p.loss,
        learning_rate: p.learning_rate,
        tokens_per_second: p.tokens_per_second,
        first_evaluation: p.first_evaluation,
        last_evaluation: p.last_evaluation,
        seconds_left: p.seconds_left,
        peak_bytes: p.peak_bytes,
        samples: p.samples.iter().map(sample).collect(),
        scores: p.scores.as_ref().map(scores),
    }
}

/// What was measured is kept as it is, also where it is not finite: a loss of NaN is what happened,
/// and a perplexity can be beyond every number. An estimate of time that is no time says nothing,
/// and is left out.
pub fn progress_in(p: wire::Progress) -> domain::Progress {
    let sample = |s: wire::Sample| domain::Sample {
        step: s.step,
        prompt: s.prompt,
        wanted: s.wanted,
        answer: s.answer,
    };
    domain::Progress {
        phase: p.phase,
        phase_done: p.phase_done,
        phase_of: p.phase_of,
        step: p.step,
        steps: p.steps,
        loss: p.loss,
        learning_rate: p.learning_rate,
        tokens_per_second: p.tokens_per_second,
        first_evaluation: p.first_evaluation,
        last_evaluation: p.last_evaluation,
        seconds_left: p.seconds_left.filter(|s| s.is_finite() && *s >= 0.0),
        peak_bytes: p.peak_bytes,
        samples: p.samples.into_iter().map(sample).collect(),
        scores: p.scores.map(scores_in),
    }
}

fn scores(s: &domain::Scores) -> wire::Scores {
    let calls = |c: &domain::CallScores| wire::CallScores {
        rows: c.rows,
        valid_json: c.valid_json,
        schema_valid: c.schema_valid,
        names_match: c.names_match,
        exact_match: c.exact_match,
    };
    wire::Scores {
        rows: s.rows,
        tokens: s.tokens,
        loss: s.loss,
        perplexity: s.perplexity,
        calls: s.calls.as_ref().map(calls),
    }
}

fn scores_in(s: wire::Scores) -> domain::Scores {
    let calls = |c: wire::CallScores| domain::CallScores {
        rows: c.rows,
        valid_json: c.valid_json,
        schema_valid: c.schema_valid,
        names_match: c.names_match,
        exact_match: c.exact_match,
    };
    domain::Scores {
        rows: s.rows,
        tokens: s.tokens,
        loss: s.loss,
        perplexity: s.perplexity,
        calls: s.calls.map(calls),
    }
}

pub fn file(f: &domain::File) -> wire::JobFile {
    wire::JobFile {
        role: names::role(f.role).into(),
        name: f.name.clone(),
        digest: f.digest.clone(),
        size: f.size,
    }
}

pub fn file_in(f: wire::JobFile) -> Result<domain::File, CallError> {
    Digest256::from_str(&f.digest)?;
    Ok(domain::File {
        role: names::role_in(&f.role)?,
        name: f.name,
        digest: f.digest,
        size: f.size,
    })
}

pub fn artifact(a: &domain::Artifact) -> wire::JobArtifact {
    wire::JobArtifact {
        kind: names::artifact_kind(a.kind).into(),
        name: a.name.clone(),
        digest: a.digest.clone(),
        size: a.size,
        step: a.step,
    }
}

pub fn artifact_in(a: wire::JobArtifact) -> Result<domain::Artifact, CallError> {
    Digest256::from_str(&a.digest)?;
    Ok(domain::Artifact {
        kind: names::artifact_kind_in(&a.kind)?,
        name: names::artifact_name(a.name)?,
        digest: a.digest,
        size: a.size,
        step: a.step,
    })
}

fn class(class: domain::DeviceClass) -> wire::DeviceClass {
    match class {
        domain::DeviceClass::Cpu => wire::DeviceClass::Cpu,
        domain::DeviceClass::Cuda => wire::DeviceClass::Cuda,
        domain::DeviceClass::Metal => wire::DeviceClass::Metal,
    }
}

pub fn platform(p: &domain::Platform) -> wire::Platform {
    wire::Platform {
        device_class: class(p.device).into(),
        device_name: p.device_name.clone(),
        device_memory: p.device_memory,
        device_memory_free: p.device_memory_free,
        compute_capability: p.compute_capability.clone(),
        driver: p.driver.clone(),
        cpu_model: p.cpu_model.clone(),
        cpu_cores: p.cpu_cores,
        memory: p.memory,
        disk_free: p.disk_free,
        bf16: p.bf16,
        flash_attention: p.flash_attention,
        os: p.os.clone(),
        labels: p.labels.clone().into_iter().collect(),
        version: p.version.clone(),
        host: p.host.clone(),
        device_id: p.device_id.clone(),
        models: p.models.iter().cloned().collect(),
    }
}

pub fn platform_in(p: wire::Platform) -> Result<domain::Platform, CallError> {
    let device = match p.device_class() {
        wire::DeviceClass::Cpu => domain::DeviceClass::Cpu,
        wire::DeviceClass::Cuda => domain::DeviceClass::Cuda,
        wire::DeviceClass::Metal => domain::DeviceClass::Metal,
        wire::DeviceClass::Unspecified => {
            return Err(CallError::Invalid(
                "the worker's platform has no device class".into(),
            ));
        }
    };
    Ok(domain::Platform {
        device,
        device_name: p.device_name,
        device_memory: p.device_memory,
        device_memory_free: p.device_memory_free,
        compute_capability: p.compute_capability,
        driver: p.driver,
        cpu_model: p.cpu_model,
        cpu_cores: p.cpu_cores,
        memory: p.memory,
        disk_free: p.disk_free,
        bf16: p.bf16,
        flash_attention: p.flash_attention,
        os: p.os,
        labels: p.labels.into_iter().collect(),
        version: p.version,
        host: p.host,
        device_id: p.device_id,
        models: models_in(p.models),
    })
}

/// Models of one machine at the most, and bytes of the name of one.
const MODELS: usize = 256;
const LONGEST_MODEL: usize = 256;

/// A hint, for which no worker is refused: what is beyond the bounds is left out.
pub fn models_in(names: Vec<String>) -> BTreeSet<String> {
    let names = names.into_iter();
    names
        .filter(|name| name.len() <= LONGEST_MODEL)
        .take(MODELS)
        .collect()
}

fn worker(engine: &domain::Engine, worker: &domain::Worker) -> wire::WorkerInfo {
    wire::WorkerInfo {
        name: worker.name.clone(),
        platform: Some(platform(&worker.platform)),
        connected: worker.connected,
        running_job: worker
            .assigned
            .and_then(|t| engine.job_of(t))
            .map_or(0, |id| id.0),
        last_seen_unix_ms: worker.last_seen.0 as i64,
        draining: worker.draining,
        set_aside: worker.set_aside().unwrap_or_default(),
        drained: worker.drained.as_ref().map(drain),
    }
}

pub fn drain(drain: &domain::Drain) -> wire::Drain {
    wire::Drain {
        since_unix_ms: drain.since.0 as i64,
        reason: drain.reason.clone(),
    }
}

/// Every worker, and names that are drained and have not registered since the coordinator started.
pub fn workers(engine: &domain::Engine) -> Vec<wire::WorkerInfo> {
    let mut all: Vec<_> = engine.workers().map(|w| worker(engine, w)).collect();
    let is_listed = |name: &str| engine.workers().any(|w| w.name == name);
    let drains = engine.drains().iter();
    let absent = drains.filter(|(name, _)| !is_listed(name));
    all.extend(absent.map(|(name, drained)| wire::WorkerInfo {
        name: name.clone(),
        drained: Some(drain(drained)),
        ..wire::WorkerInfo::default()
    }));
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

pub fn outcome_in(outcome: wire::Outcome) -> Result<domain::Outcome, CallError> {
    Ok(match outcome {
        wire::Outcome::Succeeded => domain::Outcome::Succeeded,
        wire::Outcome::BadInput => domain::Outcome::BadInput,
        wire::Outcome::OutOfMemory => domain::Outcome::OutOfMemory,
        wire::Outcome::Failed => domain::Outcome::Failed,
        wire::Outcome::NoRoom => domain::Outcome::NoRoom,
        wire::Outcome::Stopped => domain::Outcome::Stopped,
        wire::Outcome::Lost => domain::Outcome::Lost,
        wire::Outcome::PeerLost => domain::Outcome::PeerLost,
        wire::Outcome::Unspecified => {
            return Err(CallError::Invalid(
                "the outcome of the attempt is missing".into(),
            ));
        }
    })
}

/// An error code, which is `Q` and four digits, or nothing.
pub fn code_in(code: String) -> Result<String, CallError> {
    let is_code = |digits: &str| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
    if code.is_empty() || code.strip_prefix('Q').is_some_and(is_code) {
        return Ok(code);
    }
    Err(CallError::Invalid(format!(
        "an error code is Q and four digits, not `{}`",
        code.escape_default()
    )))
}

pub fn rendezvous(m: domain::Rendezvous) -> wire::RendezvousOffer {
    wire::RendezvousOffer {
        addresses: m.addresses,
        secret: m.secret,
    }
}

/// Addresses of one machine at the most, and bytes of a secret.
const ADDRESSES: usize = 64;
const SECRET: usize = 32;

pub fn rendezvous_in(m: wire::RendezvousOffer) -> Result<domain::Rendezvous, CallError> {
    if m.addresses.is_empty() || m.addresses.len() > ADDRESSES || m.secret.len() != SECRET {
        return Err(CallError::Invalid(format!(
            "a rendezvous has 1 to {ADDRESSES} addresses and a secret of {SECRET} bytes, not {} and {}",
            m.addresses.len(),
            m.secret.len()
        )));
    }
    Ok(domain::Rendezvous {
        addresses: m.addresses,
        secret: m.secret,
    })
}

pub fn metric(m: MetricRecord) -> wire::MetricPoint {
    wire::MetricPoint {
        seq: m.seq,
        step: m.step,
        unix_ms: m.unix_ms as i64,
        values: m.values.into_iter().collect(),
    }
}

/// A value that is not finite says at which step a run went wrong, and is kept as it is.
pub fn metric_in(m: wire::MetricPoint) -> MetricRecord {
    MetricRecord {
        seq: 0,
        step: m.step,
        unix_ms: m.unix_ms as u64,
        values: m.values.into_iter().collect(),
    }
}

/// A line of the log of `job`.
pub fn log(job: &domain::Job, l: LogRecord) -> wire::LogLine {
    wire::LogLine {
        seq: l.seq,
        unix_ms: l.unix_ms as i64,
        level: l.level,
        text: l.text,
        attempt: job.attempt_number(Token(l.token)).unwrap_or_default(),
    }
}

pub fn log_in(l: wire::LogLine, token: Token) -> LogRecord {
    LogRecord {
        seq: 0,
        unix_ms: l.unix_ms as u64,
        level: l.level,
        text: l.text,
        token: token.0,
    }
}

pub fn event(e: JournalEntry) -> wire::Event {
    let (who, from, act) = match e.by {
        Some(By { who, from, act }) => (who, from, act),
        None => Default::default(),
    };
    wire::Event {
        seq: e.seq,
        unix_ms: e.unix_ms as i64,
        job: e.job.map_or(0, |j| j.0),
        worker: e.worker.unwrap_or_default(),
        kind: e.kind,
        text: e.text,
        who,
        from,
        act,
    }
}

pub fn token(t: TokenRecord) -> wire::TokenInfo {
    let at = |ms: Option<u64>| ms.unwrap_or_default() as i64;
    wire::TokenInfo {
        id: t.id,
        name: t.name,
        role: t.role,
        created_unix_ms: t.created_unix_ms as i64,
        expires_unix_ms: at(t.expires_unix_ms),
        last_used_unix_ms: at(t.used_day.map(|day| day.saturating_mul(wire::DAY_MS))),
        revoked_unix_ms: at(t.revoked_unix_ms),
    }
}

pub fn config(c: ConfigRevision) -> wire::ConfigRevision {
    wire::ConfigRevision {
        name: c.name,
        revision: c.revision,
        yaml: c.yaml,
        hash: c.hash,
        created_unix_ms: c.unix_ms as i64,
    }
}

/// 0 stands for none.
pub fn token_in(token: u64) -> Option<Token> {
    (token != 0).then_some(Token(token))
}

pub fn session_in(session: u64) -> SessionId {
    SessionId(session)
}

pub fn job_in(id: u64) -> JobId {
    JobId(id)
}

/// States as the store has them; those that this version does not know are nobody's.
pub fn states_in(states: &[i32]) -> Vec<&'static str> {
    let known = states
        .iter()
        .filter_map(|&state| wire::JobState::try_from(state).ok());
    let mut words: Vec<&str> = known.map(wire::JobState::word).collect();
    // Asked for twice, a state is listed once.
    words.sort_unstable();
    words.dedup();
    words
}
