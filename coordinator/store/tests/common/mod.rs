//! Records for tests.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use qlora_engine::{
    CallScores, File, Holder, Job, JobId, JobKind, JobSpec, Needs, Now, Progress, Scores, SessionId,
};
use qlora_store::{
    Bounds, Campaign, Candidate, Database, Digest256, JournalEntry, LogRecord, MetricRecord, Owner,
    PostgresStore,
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

/// The longest that a server may take on a slow machine.
pub const LIMIT: Duration = Duration::from_secs(60);

pub fn job(id: u64) -> Job {
    let spec = JobSpec {
        kind: JobKind::Train,
        config_json: "{\"a\":1}".into(),
        config_hash: "h".into(),
        files: vec![File {
            role: qlora_engine::FileRole::Train,
            name: "t.jsonl".into(),
            digest: "d".into(),
            size: 3,
        }],
        needs: Needs {
            memory_fraction: Some(0.9),
            ..Needs::default()
        },
        max_retries: 1,
        ..JobSpec::noop(format!("job {id}"))
    };
    Job::new(JobId(id), spec, Now::both(7))
}

/// A job all of whose measured values are `v`.
pub fn measuring(id: u64, v: f64) -> Job {
    let calls = CallScores {
        rows: u64::MAX,
        valid_json: v,
        schema_valid: v,
        names_match: v,
        exact_match: v,
    };
    let scores = Scores {
        rows: 1,
        tokens: u64::MAX,
        loss: v,
        perplexity: v,
        calls: Some(calls),
    };
    let progress = Progress {
        step: u64::MAX,
        loss: Some(v),
        learning_rate: Some(v),
        tokens_per_second: Some(v),
        first_evaluation: Some(v),
        last_evaluation: Some(v),
        seconds_left: Some(v),
        scores: Some(scores),
        ..Progress::default()
    };
    let mut made = job(id);
    made.spec.needs = Needs {
        memory_fraction: Some(v),
        ..Needs::default()
    };
    Job { progress, ..made }
}

/// Whether `text` is 128 bits as hex text.
pub fn is_identity(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub fn holder(worker: &str) -> Holder {
    Holder {
        worker: worker.into(),
        instance: "i".into(),
        session: Some(SessionId(u64::MAX)),
    }
}

pub fn point(step: u64) -> MetricRecord {
    MetricRecord {
        seq: 0,
        step,
        unix_ms: 1,
        values: BTreeMap::from([("loss".into(), step as f64 / 4.0)]),
    }
}

pub fn line(text: &str) -> LogRecord {
    LogRecord {
        seq: 0,
        unix_ms: 2,
        level: "info".into(),
        text: text.into(),
        token: 5,
    }
}

pub fn entry(kind: &str) -> JournalEntry {
    JournalEntry {
        seq: 0,
        unix_ms: 3,
        job: Some(JobId(1)),
        worker: None,
        kind: kind.into(),
        text: String::new(),
        by: None,
    }
}

pub fn digest(bytes: &[u8]) -> Digest256 {
    hex::encode(Sha256::digest(bytes))
        .parse()
        .expect("a digest")
}

/// The database whose artifacts the tests have.
pub fn owner() -> Owner {
    Owner::new("0123456789abcdef0123456789abcdef".into(), false)
}

pub fn database(url: &str) -> Database {
    url.parse().expect("a database")
}

/// A store in a PostgreSQL database that nobody else leads.
pub async fn lead(url: &str, bounds: Bounds) -> PostgresStore {
    match Candidate::within(database(url), bounds).ask("a:1").await {
        Ok(Campaign::Leads(store)) => *store,
        Ok(Campaign::Stands { leader }) => panic!("{leader:?} leads"),
        Ok(Campaign::Away(fault)) | Err(fault) => panic!("{fault}"),
    }
}

/// Asks until it leads. Nothing tells when the server has given up a session.
pub async fn leads(candidate: &mut Candidate, address: &str) -> PostgresStore {
    let asking = async {
        loop {
            match candidate.ask(address).await.expect("an answer") {
                Campaign::Leads(store) => return *store,
                Campaign::Stands { .. } | Campaign::Away(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
    };
    timeout(LIMIT, asking).await.expect("a leader")
}
