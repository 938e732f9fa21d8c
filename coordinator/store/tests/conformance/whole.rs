//! What every store keeps, from jobs to configurations.

use qlora_engine::{Ended, JobId, JobState, Millis};
use qlora_store::*;

use crate::common::{entry, is_identity, job, line, point};
use crate::numbers::keeps_numbers;
use crate::together::writes_together;

pub async fn conforms(store: impl JobStore) {
    let (first, mut second) = (job(1), job(2));
    let writes = vec![
        Write::SaveJob(Box::new(first.clone())),
        Write::SaveJob(Box::new(second.clone())),
        Write::Metrics {
            job: JobId(1),
            points: vec![point(1), point(2)],
        },
        Write::Metrics {
            job: JobId(1),
            points: vec![point(3)],
        },
        Write::Logs {
            job: JobId(1),
            lines: vec![line("a"), line("b")],
        },
        Write::Journal(entry("x")),
        Write::Journal(entry("y")),
    ];
    let entries = store.apply(writes).await.expect("writes");
    assert_eq!(
        entries
            .iter()
            .map(|e| (e.seq, e.kind.as_str()))
            .collect::<Vec<_>>(),
        [(1, "x"), (2, "y")]
    );
    second.state = JobState::Succeeded { at: Millis(9) };
    store
        .apply(vec![Write::SaveJob(Box::new(second.clone()))])
        .await
        .expect("a write");
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs, std::slice::from_ref(&first));
    assert_eq!(stored.ended, [Ended::of(&second).expect("it has ended")]);
    for job in [first, second] {
        assert_eq!(store.job(job.id).await.expect("a look"), Some(job));
    }
    assert_eq!(store.job(JobId(99)).await.expect("a look"), None);
    assert_eq!(
        (&stored.unreadable, stored.reserved.job),
        (&vec![], JobId(2))
    );

    let steps =
        |points: Vec<MetricRecord>| points.iter().map(|p| (p.seq, p.step)).collect::<Vec<_>>();
    assert_eq!(
        steps(store.metrics(JobId(1), 0, 10).await.expect("metrics")),
        [(1, 1), (2, 2), (3, 3)]
    );
    assert_eq!(
        steps(store.metrics(JobId(1), 1, 1).await.expect("metrics")),
        [(2, 2)]
    );
    assert_eq!(
        store.metrics(JobId(1), 0, 1).await.expect("metrics")[0].values,
        point(1).values
    );
    assert!(
        store
            .metrics(JobId(2), 0, 10)
            .await
            .expect("metrics")
            .is_empty()
    );
    let lines = store.logs(JobId(1), 1, 10).await.expect("logs");
    assert_eq!(
        lines,
        [LogRecord {
            seq: 2,
            ..line("b")
        }]
    );
    store
        .apply(vec![Write::Logs {
            job: JobId(1),
            lines: vec![line("c")],
        }])
        .await
        .expect("a write");
    let last = |limit| store.last_logs(JobId(1), limit);
    let texts = |lines: Vec<LogRecord>| {
        lines
            .into_iter()
            .map(|l| (l.seq, l.text))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(last(2).await.expect("logs")),
        [(2, "b".into()), (3, "c".into())]
    );
    assert_eq!(
        texts(last(9).await.expect("logs")),
        texts(store.logs(JobId(1), 0, 9).await.expect("logs"))
    );
    assert!(store.last_logs(JobId(9), 2).await.expect("logs").is_empty());
    assert_eq!(
        store.journal(1, 10).await.expect("journal"),
        [JournalEntry {
            seq: 2,
            ..entry("y")
        }]
    );

    let put = |text: &'static str| store.put_config("c", text, text, 1, None);
    assert_eq!(put("one").await.expect("a revision").revision, 1);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(store.config("c", 0).await.expect("a config").yaml, "two");
    assert_eq!(store.config("c", 1).await.expect("a config").yaml, "one");
    assert!(matches!(
        store.config("c", 3).await,
        Err(StoreError::NoConfig { .. })
    ));
    store
        .put_config("d", "x", "x", 1, None)
        .await
        .expect("a revision");
    let names = |all: Vec<ConfigRevision>| {
        all.into_iter()
            .map(|c| (c.name, c.revision))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(store.configs(None).await.expect("configs")),
        [("c".into(), 2), ("d".into(), 1)]
    );
    assert_eq!(
        names(store.configs(Some("c")).await.expect("configs")),
        [("c".into(), 1), ("c".into(), 2)]
    );

    let ids = [
        stored.coordinator_id,
        store.load().await.expect("jobs").coordinator_id,
    ];
    assert_eq!(ids[0], ids[1], "the coordinator became another one");
    assert!(is_identity(&ids[0]), "{}", ids[0]);

    // Nothing lies behind the last position that there can be.
    assert!(
        store
            .metrics(JobId(1), u64::MAX, 10)
            .await
            .expect("metrics")
            .is_empty()
    );
    assert!(
        store
            .logs(JobId(1), u64::MAX, 10)
            .await
            .expect("logs")
            .is_empty()
    );
    assert!(
        store
            .journal(u64::MAX, 10)
            .await
            .expect("journal")
            .is_empty()
    );
    assert!(matches!(
        store.config("c", u64::MAX).await,
        Err(StoreError::NoConfig { .. })
    ));
    keeps_numbers(&store).await;
    writes_together(&store).await;
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
