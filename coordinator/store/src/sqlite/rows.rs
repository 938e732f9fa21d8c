//! Rows as records. An unreadable row is named, never guessed, and hides no other row.

use std::collections::BTreeMap;

use qlora_engine::{Drain, Job, JobId, JobSpec, JobState, Millis, Number, Reserved, Token};
use sqlx::Row;
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

/// A column as text; what is no UTF-8 is replaced and remembered.
fn text(row: &SqliteRow, column: &str, fault: &mut Option<String>) -> String {
    match row.try_get::<String, _>(column) {
        Ok(text) => text,
        Err(e) => {
            *fault = Some(e.to_string());
            let bytes = row
                .try_get_unchecked::<Vec<u8>, _>(column)
                .unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        }
    }
}

fn number(row: &SqliteRow, column: &str, fault: &mut Option<String>) -> u64 {
    match row.try_get::<i64, _>(column) {
        Ok(number) => number as u64,
        Err(e) => {
            *fault = Some(e.to_string());
            0
        }
    }
}

/// A column of text that may hold none.
fn maybe(row: &SqliteRow, column: &str, fault: &mut Option<String>) -> Option<String> {
    match row.try_get::<Option<String>, _>(column) {
        Ok(text) => text,
        Err(_) => Some(text(row, column, fault)),
    }
}

fn maybe_number(row: &SqliteRow, column: &str, fault: &mut Option<String>) -> Option<u64> {
    match row.try_get::<Option<i64>, _>(column) {
        Ok(number) => number.map(|number| number as u64),
        Err(e) => {
            *fault = Some(e.to_string());
            None
        }
    }
}

/// The number of a job's row.
pub(super) fn id(row: &SqliteRow) -> i64 {
    row.try_get("id").unwrap_or_default()
}

/// A job, or why it cannot be read and the idempotency key that it holds.
pub(super) fn job(row: &SqliteRow) -> Result<Job, (Unreadable, Option<String>)> {
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

fn spec(row: &SqliteRow) -> Result<JobSpec, String> {
    let text: &str = row.try_get("spec").map_err(|e| e.to_string())?;
    serde_json::from_str(text).map_err(|e| format!("spec: {e}"))
}

fn body(row: &SqliteRow, id: JobId, spec: JobSpec) -> Result<Job, String> {
    let text: &str = row.try_get("body").map_err(|e| e.to_string())?;
    let mut body: serde_json::Value =
        serde_json::from_str(text).map_err(|e| format!("body: {e}"))?;
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
pub(super) fn reserve(row: &SqliteRow, reserved: &mut Reserved) -> Result<(), sqlx::Error> {
    reserved.job = JobId(row.try_get::<i64, _>("job")? as u64);
    reserved.token = Token(row.try_get::<i64, _>("token")? as u64);
    Ok(())
}

/// A point whose values cannot be read has none.
pub(super) fn metric(row: &SqliteRow) -> Read<MetricRecord> {
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

pub(super) fn log(row: &SqliteRow) -> Read<LogRecord> {
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

pub(super) fn entry(row: &SqliteRow) -> Read<JournalEntry> {
    let mut fault = None;
    let job = row.try_get::<Option<i64>, _>("job").unwrap_or_default();
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
pub(super) fn drain(row: &SqliteRow) -> Read<(String, Drain)> {
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
pub(super) fn token(row: &SqliteRow) -> Read<TokenRecord> {
    let mut fault = None;
    let mut value = TokenRecord {
        id: number(row, "id", &mut fault),
        name: text(row, "name", &mut fault),
        role: text(row, "role", &mut fault),
        hash: text(row, "hash", &mut fault),
        page_hash: text(row, "page_hash", &mut fault),
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

pub(super) fn revision(row: &SqliteRow) -> u64 {
    number(row, "revision", &mut None)
}

/// A configuration is trained with: one that is damaged is refused, not shown in part.
pub(super) fn config(row: &SqliteRow) -> Result<ConfigRevision, StoreError> {
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
