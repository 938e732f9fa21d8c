//! Artifacts that no job needs any more go, and no others.

use qlora_engine::{Ended, File, FileRole, Prune};

use super::*;

/// Remembers what may go.
#[derive(Clone, Default)]
struct Going(Arc<Mutex<Vec<String>>>);

impl Artifacts for Going {
    fn make_room(&self) {}

    fn release(&self, digest: &str) {
        self.0.lock().expect("a lock").push(digest.to_owned());
    }
}

/// Which artifacts go with a job that is removed.
async fn released_by_a_removal(store: &Arc<Failing>) -> Vec<String> {
    let released = Going::default();
    let driver = Driver::start(store.clone(), Limits::default(), released.clone())
        .await
        .expect("a start");
    let Event::Submit { mut spec } = submit("with a file", None) else {
        unreachable!("it is a submission")
    };
    spec.files.push(File {
        role: FileRole::Train,
        name: "train.jsonl".into(),
        digest: "data".into(),
        size: 1,
    });
    let Ok(Response::Submitted { job, .. }) = driver.event(Event::Submit { spec }).await else {
        panic!("no job")
    };
    let reason = "r".into();
    for event in [Event::Cancel { job, reason }, Event::RemoveJob { job }] {
        driver.event(event).await.expect("an answer");
    }
    released.0.lock().expect("a lock").clone()
}

/// What a job needs that cannot be read is not known.
#[tokio::test]
async fn nothing_is_released_while_a_job_cannot_be_read() {
    let store = failing();
    assert_eq!(released_by_a_removal(&store).await, ["data"]);
    store
        .faults
        .unreadable
        .lock()
        .expect("a lock")
        .push(Unreadable {
            job: JobId(7),
            fault: "it cannot be read".into(),
            told: false,
        });
    assert!(released_by_a_removal(&store).await.is_empty());
}

#[tokio::test]
async fn what_is_pruned_is_released_once_that_is_durable_and_nobody_else_needs_it() {
    let (store, unneeded) = (failing(), Going::default());
    let driver = Driver::start(store.clone(), Limits::default(), unneeded.clone())
        .await
        .expect("a start");
    let a = registered(&driver, "a").await;
    let mut jobs = Vec::new();
    for name in ["one", "two"] {
        let job = submitted(&driver, name).await;
        let token = started(&driver, a).await;
        let point = MetricRecord {
            seq: 0,
            step: 1,
            unix_ms: 0,
            values: BTreeMap::new(),
        };
        let points = vec![point];
        let records = Records {
            points,
            ..Records::default()
        };
        let reported = driver.event_with(report(a, token, 1), records).await;
        reported.expect("a report");
        for event in [checkpoint(a, token, 1), finish(a, token)] {
            driver.event(event).await.expect("an end with a checkpoint");
        }
        jobs.push(job);
    }
    let prune = |job, what| Event::Prune {
        job,
        what,
        reason: "it is old".into(),
    };
    let gone = || unneeded.0.lock().expect("a lock").clone();
    store.faults.fail(0, 1_000);
    for what in [Prune::Artifacts, Prune::Records, Prune::Job] {
        refused(driver.event(prune(jobs[0], what)).await, "a removal");
    }
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.ended.len(), 2);
    store.faults.fail(0, 0);
    for what in [Prune::Artifacts, Prune::Records] {
        driver.event(prune(jobs[0], what)).await.expect("a removal");
    }
    assert!(gone().is_empty(), "the other job has the same checkpoint");
    let kept = store.metrics(jobs[0], 0, 10).await.expect("metrics");
    assert!(kept.is_empty(), "{kept:?}");
    let kept = store.metrics(jobs[1], 0, 10).await.expect("metrics");
    assert_eq!(kept.len(), 1);
    driver
        .event(prune(jobs[1], Prune::Job))
        .await
        .expect("a removal");
    assert_eq!(gone(), ["d"]);

    let stored = store.load().await.expect("jobs").ended;
    let [Ended { id, .. }] = stored.as_slice() else {
        panic!("{stored:?}")
    };
    let job = store.job(*id).await.expect("a job").expect("the job");
    assert!(job.artifacts.is_empty() && job.pruned.artifacts && job.pruned.records);
    let journal = store.journal(0, 100).await.expect("a journal");
    let told: Vec<(&str, &str)> = journal
        .iter()
        .filter(|e| matches!(e.kind.as_str(), "pruned" | "removed"))
        .map(|e| (e.kind.as_str(), e.text.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("pruned", "checkpoints and adapters: it is old"),
            ("pruned", "metrics and log: it is old"),
            ("removed", "two: it is old"),
        ]
    );
}
