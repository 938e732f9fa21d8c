//! Jobs go, and their records go without them.

use qlora_engine::JobId;
use qlora_store::*;

use crate::common::{entry, job, line, point};

pub async fn removes(store: impl JobStore) {
    for id in [1, 2] {
        let writes = vec![
            Write::SaveJob(Box::new(job(id))),
            Write::Metrics {
                job: JobId(id),
                points: vec![point(1)],
            },
            Write::Logs {
                job: JobId(id),
                lines: vec![line("a")],
            },
            Write::Journal(entry("x")),
        ];
        store.apply(writes).await.expect("writes");
    }
    let gone = JobId(2);
    store
        .apply(vec![Write::RemoveJob(gone)])
        .await
        .expect("a write");
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs, [job(1)]);
    assert_eq!(stored.reserved.job, gone, "its number is not given again");
    let points = store.metrics(gone, 0, 10).await.expect("metrics");
    let lines = store.logs(gone, 0, 10).await.expect("logs");
    assert!(points.is_empty() && lines.is_empty());
    assert_eq!(
        store.metrics(JobId(1), 0, 10).await.expect("metrics").len(),
        1
    );
    assert_eq!(
        store.journal(0, 10).await.expect("the journal").len(),
        2,
        "the journal stays"
    );
}

#[tokio::test]
async fn a_removed_job_leaves_its_number_and_the_journal() {
    removes(MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    removes(SqliteStore::open(folder.path()).await.expect("a store")).await;
}

pub async fn forgets_records(store: impl JobStore) {
    let records = |id| {
        vec![
            Write::SaveJob(Box::new(job(id))),
            Write::Metrics {
                job: JobId(id),
                points: vec![point(1)],
            },
            Write::Logs {
                job: JobId(id),
                lines: vec![line("aé")],
            },
        ]
    };
    for id in [1, 2] {
        store.apply(records(id)).await.expect("writes");
    }
    let bytes = |id| store.record_bytes(JobId(id));
    // The line has 3 bytes, and the point some.
    assert!(bytes(1).await.expect("bytes") > 3);
    assert_eq!(bytes(9).await.expect("bytes"), 0);
    let gone = vec![Write::RemoveRecords(JobId(1))];
    store.apply(gone).await.expect("a write");
    assert_eq!(bytes(1).await.expect("bytes"), 0);
    assert!(bytes(2).await.expect("bytes") > 3);
    assert_eq!(store.load().await.expect("jobs").jobs, [job(1), job(2)]);
}

#[tokio::test]
async fn the_records_of_a_job_go_without_it() {
    forgets_records(MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    assert!(store.disk_bytes() > 0);
    forgets_records(store).await;
}
