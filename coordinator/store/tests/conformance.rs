//! One suite for every job store, and the promises of the artifact store.

use std::collections::BTreeMap;

use qlora_engine::{File, Job, JobId, JobKind, JobSpec, JobState, Millis, Needs};
use qlora_store::*;
use sha2::{Digest, Sha256};

fn job(id: u64) -> Job {
    let spec = JobSpec {
        kind: JobKind::Train,
        name: format!("job {id}"),
        config_json: "{\"a\":1}".into(),
        config_hash: "h".into(),
        files: vec![File { role: "train".into(), name: "t.jsonl".into(), digest: "d".into(), size: 3 }],
        needs: Needs { memory_fraction: Some(0.9), ..Needs::default() },
        max_retries: 1,
        idempotency_key: None,
        traceparent: String::new(),
    };
    Job::new(JobId(id), spec, Millis(7))
}

fn point(step: u64) -> MetricRecord {
    MetricRecord { seq: 0, step, unix_ms: 1, values: BTreeMap::from([("loss".into(), step as f64 / 4.0)]) }
}

fn line(text: &str) -> LogRecord {
    LogRecord { seq: 0, unix_ms: 2, level: "info".into(), text: text.into(), token: 5 }
}

fn entry(kind: &str) -> JournalEntry {
    JournalEntry { seq: 0, unix_ms: 3, job: Some(JobId(1)), worker: None, kind: kind.into(), text: String::new() }
}

async fn conforms(store: impl JobStore) {
    let (first, mut second) = (job(1), job(2));
    let writes = vec![
        Write::SaveJob(Box::new(first.clone())),
        Write::SaveJob(Box::new(second.clone())),
        Write::Metrics { job: JobId(1), points: vec![point(1), point(2)] },
        Write::Metrics { job: JobId(1), points: vec![point(3)] },
        Write::Logs { job: JobId(1), lines: vec![line("a"), line("b")] },
        Write::Journal(entry("x")),
        Write::Journal(entry("y")),
    ];
    let entries = store.apply(writes).await.expect("writes");
    assert_eq!(entries.iter().map(|e| (e.seq, e.kind.as_str())).collect::<Vec<_>>(), [(1, "x"), (2, "y")]);
    second.state = JobState::Succeeded { at: Millis(9) };
    store.apply(vec![Write::SaveJob(Box::new(second.clone()))]).await.expect("a write");
    assert_eq!(store.jobs().await.expect("jobs"), [first, second]);

    let steps = |points: Vec<MetricRecord>| points.iter().map(|p| (p.seq, p.step)).collect::<Vec<_>>();
    assert_eq!(steps(store.metrics(JobId(1), 0, 10).await.expect("metrics")), [(1, 1), (2, 2), (3, 3)]);
    assert_eq!(steps(store.metrics(JobId(1), 1, 1).await.expect("metrics")), [(2, 2)]);
    assert_eq!(store.metrics(JobId(1), 0, 1).await.expect("metrics")[0].values, point(1).values);
    assert!(store.metrics(JobId(2), 0, 10).await.expect("metrics").is_empty());
    let lines = store.logs(JobId(1), 1, 10).await.expect("logs");
    assert_eq!(lines, [LogRecord { seq: 2, ..line("b") }]);
    assert_eq!(store.journal(1, 10).await.expect("journal"), [JournalEntry { seq: 2, ..entry("y") }]);

    let put = |text: &'static str| store.put_config("c", text, text, 1);
    assert_eq!(put("one").await.expect("a revision").revision, 1);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(store.config("c", 0).await.expect("a config").yaml, "two");
    assert_eq!(store.config("c", 1).await.expect("a config").yaml, "one");
    assert!(matches!(store.config("c", 3).await, Err(StoreError::NoConfig { .. })));
    store.put_config("d", "x", "x", 1).await.expect("a revision");
    let names = |all: Vec<ConfigRevision>| all.into_iter().map(|c| (c.name, c.revision)).collect::<Vec<_>>();
    assert_eq!(names(store.configs(None).await.expect("configs")), [("c".into(), 2), ("d".into(), 1)]);
    assert_eq!(names(store.configs(Some("c")).await.expect("configs")), [("c".into(), 1), ("c".into(), 2)]);
}

#[tokio::test]
async fn memory_conforms() {
    conforms(MemoryStore::default()).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    conforms(SqliteStore::open(folder.path()).await.expect("a store")).await;
}

#[tokio::test]
async fn sqlite_keeps_what_it_acknowledged_and_refuses_a_second_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    store.apply(vec![Write::SaveJob(Box::new(job(1)))]).await.expect("a write");
    assert!(matches!(SqliteStore::open(folder.path()).await, Err(StoreError::InUse { .. })));
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    assert_eq!(again.jobs().await.expect("jobs"), [job(1)]);
}

fn digest(bytes: &[u8]) -> Digest256 {
    hex::encode(Sha256::digest(bytes)).parse().expect("a digest")
}

#[tokio::test]
async fn an_upload_goes_on_where_it_broke_off_and_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path()).await.expect("a store");
    let bytes = b"a checkpoint of some length".as_slice();
    let digest = digest(bytes);
    let size = bytes.len() as u64;
    let mut upload = store.upload(&digest, size, 0).await.expect("an upload");
    upload.write(&bytes[..10]).await.expect("bytes");
    assert!(!upload.is_full());
    // What was handed over but not flushed by the writer's buffer counts only once it is in the file.
    drop(upload);
    let stat = loop {
        let stat = store.stat(&digest).await;
        if stat.size == 10 {
            break stat;
        }
        tokio::task::yield_now().await;
    };
    assert!(!stat.complete);
    assert!(matches!(store.read(&digest, 0).await, Err(ArtifactError::Missing(_))));
    assert!(matches!(store.upload(&digest, size, 3).await, Err(ArtifactError::Offset { expected: 10, .. })));
    let mut upload = store.upload(&digest, size, 10).await.expect("an upload");
    upload.write(&bytes[10..]).await.expect("bytes");
    assert!(upload.is_full());
    upload.finish().await.expect("the right bytes");
    let mut reader = store.read(&digest, 2).await.expect("an artifact");
    assert_eq!(reader.size, size);
    assert_eq!(reader.next(5).await.expect("bytes"), bytes[2..7]);
}

#[tokio::test]
async fn wrong_bytes_never_get_the_final_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = ArtifactStore::open(folder.path()).await.expect("a store");
    let digest = digest(b"right");
    let mut upload = store.upload(&digest, 5, 0).await.expect("an upload");
    upload.write(b"wrong").await.expect("bytes");
    assert!(matches!(upload.finish().await, Err(ArtifactError::Mismatch { .. })));
    assert_eq!(store.stat(&digest).await, ArtifactStat { complete: false, size: 0 });
    let mut upload = store.upload(&digest, 5, 0).await.expect("an upload");
    assert!(matches!(upload.write(b"too long").await, Err(ArtifactError::TooLong { .. })));
}

#[test]
fn names_that_are_no_digests_are_refused() {
    for text in ["", "../../etc/passwd", &"A".repeat(64), &"0".repeat(63)] {
        assert!(text.parse::<Digest256>().is_err(), "{text}");
    }
}
