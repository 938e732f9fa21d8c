//! Rows as records, and the texts in them. An unreadable row is named, never guessed, and hides no
//! other row. Both databases have the same columns.

use std::collections::BTreeMap;

use qlora_engine::{
    Artifact, Attempt, Drain, Job, JobId, JobSpec, JobState, Millis, Number, Progress, Pruned,
    Reserved, Token,
};
use serde::Serialize;
use sqlx::Row;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use crate::error::StoreError;
use crate::records::{
    By, ConfigRevision, JournalEntry, LogRecord, MetricRecord, TokenRecord, Unreadable,
};

/// A record, and what is wrong where not all of it could be read.
pub(super) struct Read<T> {
    pub value: T,
    pub fault: Option<String>,
}

/// A row, by the names of its columns.
pub(super) trait Columns {
    fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error>;
    fn number(&self, column: &str) -> Result<Option<i64>, sqlx::Error>;
    /// What lies in the column, whatever it is.
    fn bytes(&self, column: &str) -> Vec<u8>;
}

macro_rules! columns_of {
    ($row:ty) => {
        impl Columns for $row {
            fn text(&self, column: &str) -> Result<Option<String>, sqlx::Error> {
                self.try_get(column)
            }

            fn number(&self, column: &str) -> Result<Option<i64>, sqlx::Error> {
                self.try_get(column)
            }

            fn bytes(&self, column: &str) -> Vec<u8> {
                self.try_get_unchecked(column).unwrap_or_default()
            }
        }
    };
}

columns_of!(SqliteRow);
columns_of!(PgRow);

/// A value that is there.
fn given<T>(found: Result<Option<T>, sqlx::Error>) -> Result<T, String> {
    let found = found.map_err(|e| e.to_string())?;
    found.ok_or_else(|| "there is no value".into())
}

/// A column as text; what is no UTF-8 is replaced and remembered.
fn text(row: &impl Columns, column: &str, fault: &mut Option<String>) -> String {
    match given(row.text(column)) {
        Ok(text) => text,
        Err(e) => {
            *fault = Some(e);
            String::from_utf8_lossy(&row.bytes(column)).into_owned()
        }
    }
}

fn number(row: &impl Columns, column: &str, fault: &mut Option<String>) -> u64 {
    match given(row.number(column)) {
        Ok(number) => number as u64,
        Err(e) => {
            *fault = Some(e);
            0
        }
    }
}

/// A column of text that may hold none.
fn maybe(row: &impl Columns, column: &str, fault: &mut Option<String>) -> Option<String> {
    match row.text(column) {
        Ok(text) => text,
        Err(_) => Some(text(row, column, fault)),
    }
}

fn maybe_number(row: &impl Columns, column: &str, fault: &mut Option<String>) -> Option<u64> {
    match row.number(column) {
        Ok(number) => number.map(|number| number as u64),
        Err(e) => {
            *fault = Some(e.to_string());
            None
        }
    }
}

/// The number of a job's row.
pub(super) fn id(row: &impl Columns) -> i64 {
    given(row.number("id")).unwrap_or_default()
}

/// A job, or why it cannot be read and the idempotency key that it holds.
pub(super) fn job(row: &impl Columns) -> Result<Job, (Unreadable, Option<String>)> {
    let id = id(row);
    let spec = spec(row);
    let key = spec
        .as_ref()
        .ok()
        .and_then(|spec| spec.idempotency_key.clone());
    let unreadable = |fault| {
        (
            Unreadable {
                job: JobId(id as u64),
                fault,
                told: false,
            },
            key,
        )
    };
    spec.and_then(|spec| body(row, JobId(id as u64), spec))
        .map_err(unreadable)
}

/// A job that somebody asked for.
pub(super) fn asked(row: &impl Columns) -> Result<Job, StoreError> {
    job(row).map_err(|(unreadable, _)| StoreError::Unreadable {
        what: format!("job {}", unreadable.job),
        fault: unreadable.fault,
    })
}

fn spec(row: &impl Columns) -> Result<JobSpec, String> {
    let text = given(row.text("spec"))?;
    serde_json::from_str(&text).map_err(|e| format!("spec: {e}"))
}

fn body(row: &impl Columns, id: JobId, spec: JobSpec) -> Result<Job, String> {
    let text = given(row.text("body"))?;
    let mut body: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| format!("body: {e}"))?;
    let fields = body.as_object_mut().ok_or("body: not an object")?;
    fields.insert(
        "spec".into(),
        serde_json::to_value(spec).map_err(|e| format!("spec: {e}"))?,
    );
    let job: Job = serde_json::from_value(body).map_err(|e| format!("body: {e}"))?;
    if job.id != id {
        return Err(format!("body: it is job {}", job.id));
    }
    match &job.state {
        // Nobody would hold it, and nobody would end it.
        JobState::Running { token, .. }
            if job
                .attempt(*token)
                .is_none_or(|a| a.holders().next().is_none()) =>
        {
            Err("body: it runs as an attempt that nobody holds".into())
        }
        _ => Ok(job),
    }
}

/// Adds the greatest numbers that were ever given out.
pub(super) fn reserve(row: &impl Columns, reserved: &mut Reserved) -> Result<(), sqlx::Error> {
    reserved.job = JobId(row.number("job")?.unwrap_or_default() as u64);
    reserved.token = Token(row.number("token")?.unwrap_or_default() as u64);
    Ok(())
}

/// A point whose values cannot be read has none.
pub(super) fn metric(row: &impl Columns) -> Read<MetricRecord> {
    let mut fault = None;
    let vals = text(row, "vals", &mut fault);
    let values: BTreeMap<String, Number> = serde_json::from_str(&vals).unwrap_or_else(|e| {
        fault = Some(e.to_string());
        BTreeMap::new()
    });
    let value = MetricRecord {
        seq: number(row, "seq", &mut fault),
        step: number(row, "step", &mut fault),
        unix_ms: number(row, "unix_ms", &mut fault),
        values: values
            .into_iter()
            .map(|(name, Number(value))| (name, value))
            .collect(),
    };
    Read { value, fault }
}

pub(super) fn log(row: &impl Columns) -> Read<LogRecord> {
    let mut fault = None;
    let value = LogRecord {
        seq: number(row, "seq", &mut fault),
        unix_ms: number(row, "unix_ms", &mut fault),
        level: text(row, "level", &mut fault),
        text: text(row, "text", &mut fault),
        token: number(row, "token", &mut fault),
    };
    Read { value, fault }
}

pub(super) fn entry(row: &impl Columns) -> Read<JournalEntry> {
    let mut fault = None;
    let job = row.number("job").unwrap_or_default();
    let worker = maybe(row, "worker", &mut fault);
    let by = maybe(row, "who", &mut fault).map(|who| By {
        who,
        from: maybe(row, "origin", &mut fault).unwrap_or_default(),
        act: maybe(row, "act", &mut fault).unwrap_or_default(),
    });
    let value = JournalEntry {
        seq: number(row, "seq", &mut fault),
        unix_ms: number(row, "unix_ms", &mut fault),
        job: job.map(|id| JobId(id as u64)),
        worker,
        kind: text(row, "kind", &mut fault),
        text: text(row, "text", &mut fault),
        by,
    };
    Read { value, fault }
}

/// A drained worker; it is drained whatever of the rest cannot be read.
pub(super) fn drain(row: &impl Columns) -> Read<(String, Drain)> {
    let mut fault = None;
    let worker = text(row, "worker", &mut fault);
    let drain = Drain {
        since: Millis(number(row, "unix_ms", &mut fault)),
        reason: text(row, "reason", &mut fault),
    };
    Read {
        value: (worker, drain),
        fault,
    }
}

/// A token that is damaged has no role, so that it opens nothing: what cannot be read may say that
/// it was revoked. Its number stays taken.
pub(super) fn token(row: &impl Columns) -> Read<TokenRecord> {
    let mut fault = None;
    let mut value = TokenRecord {
        id: number(row, "id", &mut fault),
        name: text(row, "name", &mut fault),
        role: text(row, "role", &mut fault),
        hash: text(row, "hash", &mut fault),
        created_unix_ms: number(row, "created", &mut fault),
        expires_unix_ms: maybe_number(row, "expires", &mut fault),
        revoked_unix_ms: maybe_number(row, "revoked", &mut fault),
        used_day: maybe_number(row, "used_day", &mut fault),
    };
    if fault.is_some() {
        value.role.clear();
    }
    Read { value, fault }
}

pub(super) fn revision(row: &impl Columns) -> u64 {
    number(row, "revision", &mut None)
}

/// A configuration is trained with: one that is damaged is refused, not shown in part.
pub(super) fn config(row: &impl Columns) -> Result<ConfigRevision, StoreError> {
    let mut fault = None;
    let value = ConfigRevision {
        name: text(row, "name", &mut fault),
        revision: number(row, "revision", &mut fault),
        yaml: text(row, "yaml", &mut fault),
        hash: text(row, "hash", &mut fault),
        unix_ms: number(row, "unix_ms", &mut fault),
    };
    match fault {
        None => Ok(value),
        Some(fault) => {
            let what = format!("configuration {} revision {}", value.name, value.revision);
            Err(StoreError::Unreadable { what, fault })
        }
    }
}

/// The text of a point's values.
pub(super) fn values(job: JobId, point: &MetricRecord) -> Result<String, StoreError> {
    let values: BTreeMap<&str, Number> = point
        .values
        .iter()
        .map(|(k, &v)| (k.as_str(), Number(v)))
        .collect();
    serde_json::to_string(&values).map_err(|source| StoreError::Unwritable {
        what: format!("a point of job {job}"),
        source,
    })
}

/// The part of a job that never changes, and the rest.
pub(super) fn split(job: &Job) -> Result<(String, String), StoreError> {
    let unwritable = |source| StoreError::Unwritable {
        what: format!("job {}", job.id),
        source,
    };
    let spec = serde_json::to_string(&job.spec).map_err(unwritable)?;
    let body = serde_json::to_string(&Body::of(job)).map_err(unwritable)?;
    Ok((spec, body))
}

/// A job without its `spec`.
#[derive(Serialize)]
struct Body<'a> {
    id: JobId,
    state: &'a JobState,
    attempts: &'a [Attempt],
    failures: u32,
    lost_in_a_row: u32,
    progress: &'a Progress,
    artifacts: &'a [Artifact],
    created: Millis,
    pruned: &'a Pruned,
    waits_for: &'a [JobId],
}

impl<'a> Body<'a> {
    fn of(job: &'a Job) -> Self {
        // Named one by one, so that a new field of a job is not left out.
        let Job {
            id,
            spec: _,
            state,
            attempts,
            failures,
            lost_in_a_row,
            progress,
            artifacts,
            created,
            pruned,
            waits_for,
        } = job;
        Self {
            id: *id,
            state,
            attempts,
            failures: *failures,
            lost_in_a_row: *lost_in_a_row,
            progress,
            artifacts,
            created: *created,
            pruned,
            waits_for,
        }
    }
}
