//! What is written in one transaction, however much it is, is as if it were written one after
//! another.

use qlora_engine::JobId;
use qlora_store::*;

use crate::common::{entry, job, point};

/// More than a store writes by one statement.
const MANY: u64 = 150;

pub async fn writes_together(store: &impl JobStore) {
    let jobs = [JobId(31), JobId(32)];
    let reported = (1..=MANY).flat_map(|step| {
        jobs.map(|job| Write::Metrics {
            job,
            points: vec![point(2 * step - 1), point(2 * step)],
        })
    });
    let told = (1..=MANY).map(|number| Write::Journal(entry(&number.to_string())));
    let saved = (0..MANY).map(|number| Write::SaveJob(Box::new(job(31 + number))));
    // Saved once more: the last counts.
    let mut again = job(31);
    again.failures = 3;
    let again = [Write::SaveJob(Box::new(again))];
    let writes = reported.chain(told).chain(saved).chain(again);
    let entries = store.apply(writes.collect()).await.expect("writes");
    let first = entries.first().expect("an entry").seq;
    let numbers = entries.iter().map(|e| (e.seq, e.kind.clone()));
    let wanted = (1..=MANY).map(|number| (first + number - 1, number.to_string()));
    assert_eq!(Vec::from_iter(numbers), Vec::from_iter(wanted));
    for job in jobs {
        let points = store.metrics(job, 0, 1000).await.expect("metrics");
        let points = points.iter().map(|point| (point.seq, point.step));
        let wanted = (1..=2 * MANY).map(|step| (step, step));
        assert_eq!(Vec::from_iter(points), Vec::from_iter(wanted), "{job}");
    }
    for number in 0..MANY {
        let found = store.job(JobId(31 + number)).await.expect("a look");
        let failures = found.expect("the job").failures;
        assert_eq!(failures, if number == 0 { 3 } else { 0 });
    }
    removes_what_came_before(store).await;
}

async fn removes_what_came_before(store: &impl JobStore) {
    let job = JobId(31);
    let step = |step| Write::Metrics {
        job,
        points: vec![point(step)],
    };
    let writes = vec![step(1000), Write::RemoveRecords(job), step(2000)];
    store.apply(writes).await.expect("writes");
    let points = store.metrics(job, 0, 1000).await.expect("metrics");
    let steps = points.iter().map(|point| point.step);
    assert_eq!(Vec::from_iter(steps), [2000]);
}
