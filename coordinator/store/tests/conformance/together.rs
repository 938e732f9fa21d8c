//! What is written in one transaction, however much it is, is as if it were written one after
//! another.

use qlora_engine::JobId;
use qlora_store::*;

use crate::common::{entry, job, line, point};

const MANY: u64 = 150;
/// Of each report; those of all are more than a store writes by one statement.
const POINTS: u64 = 4;

pub async fn writes_together(store: &impl JobStore) {
    let jobs = [JobId(31), JobId(32)];
    let reported = (1..=MANY).flat_map(|step| {
        jobs.map(|job| Write::Metrics {
            job,
            points: (1..=POINTS)
                .map(|n| point(POINTS * (step - 1) + n))
                .collect(),
        })
    });
    let said = (1..=MANY).flat_map(|number| {
        jobs.map(|job| Write::Logs {
            job,
            lines: vec![line(&number.to_string()), line("and more")],
        })
    });
    let told = (1..=MANY).map(|number| Write::Journal(entry(&number.to_string())));
    let saved = (0..MANY).map(|number| Write::SaveJob(Box::new(job(31 + number))));
    // Saved once more: the last counts.
    let mut again = job(31);
    again.failures = 3;
    let again = [Write::SaveJob(Box::new(again))];
    let writes = reported.chain(said).chain(told).chain(saved).chain(again);
    let entries = store.apply(writes.collect()).await.expect("writes");
    let first = entries.first().expect("an entry").seq;
    let numbers = entries.iter().map(|e| (e.seq, e.kind.clone()));
    let wanted = (1..=MANY).map(|number| (first + number - 1, number.to_string()));
    assert_eq!(Vec::from_iter(numbers), Vec::from_iter(wanted));
    for job in jobs {
        let points = store.metrics(job, 0, 1000).await.expect("metrics");
        let points = points.iter().map(|point| (point.seq, point.step));
        let wanted = (1..=POINTS * MANY).map(|step| (step, step));
        assert_eq!(Vec::from_iter(points), Vec::from_iter(wanted), "{job}");
        let lines = store.logs(job, 0, 1000).await.expect("a log");
        let lines = lines.into_iter().map(|line| (line.seq, line.text));
        let texts = (1..=MANY).flat_map(|number| [number.to_string(), "and more".into()]);
        assert_eq!(
            Vec::from_iter(lines),
            Vec::from_iter((1..).zip(texts)),
            "{job}"
        );
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
    let said = |text: &str| Write::Logs {
        job,
        lines: vec![line(text)],
    };
    let (before, after) = ([step(1000), said("before")], [step(2000), said("after")]);
    let gone = [Write::RemoveRecords(job)];
    let writes = before.into_iter().chain(gone).chain(after).collect();
    store.apply(writes).await.expect("writes");
    let points = store.metrics(job, 0, 1000).await.expect("metrics");
    let steps = points.iter().map(|point| point.step);
    assert_eq!(Vec::from_iter(steps), [2000]);
    let lines = store.logs(job, 0, 1000).await.expect("a log");
    let texts = lines.iter().map(|line| line.text.as_str());
    assert_eq!(Vec::from_iter(texts), ["after"]);
}
