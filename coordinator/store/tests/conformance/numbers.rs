//! Numbers are kept to their last bit.

use std::collections::BTreeMap;

use qlora_engine::{Job, JobId};
use qlora_store::*;

use crate::common::measuring;

/// Numbers that no JSON has a word for, and those at the ends of their types.
const NUMBERS: [f64; 9] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN_POSITIVE,
    -0.0,
    0.1 + 0.2,
    5e-324,
    1e300 / 3.0,
];

fn bits(values: impl IntoIterator<Item = f64>) -> Vec<u64> {
    values.into_iter().map(f64::to_bits).collect()
}

fn measured(job: &Job) -> Vec<f64> {
    let p = &job.progress;
    let scores = p.scores.as_ref().expect("scores");
    let calls = scores.calls.as_ref().expect("calls");
    let of_progress = [
        p.loss,
        p.learning_rate,
        p.tokens_per_second,
        p.first_evaluation,
        p.last_evaluation,
        p.seconds_left,
    ];
    let of_scores = [scores.loss, scores.perplexity];
    let of_calls = [
        calls.valid_json,
        calls.schema_valid,
        calls.names_match,
        calls.exact_match,
    ];
    let all = of_progress
        .into_iter()
        .chain([job.spec.needs.memory_fraction])
        .map(|v| v.expect("a value"));
    all.chain(of_scores).chain(of_calls).collect()
}

pub async fn keeps_numbers(store: &impl JobStore) {
    let before = store
        .metrics(JobId(9), 0, 100)
        .await
        .expect("metrics")
        .len();
    assert_eq!(before, 0);
    for (id, v) in (100..).zip(NUMBERS) {
        let values = BTreeMap::from([("loss".to_owned(), v)]);
        let point = MetricRecord {
            seq: 0,
            step: u64::MAX,
            unix_ms: u64::MAX,
            values,
        };
        let writes = vec![
            Write::SaveJob(Box::new(measuring(id, v))),
            Write::Metrics {
                job: JobId(9),
                points: vec![point],
            },
        ];
        store.apply(writes).await.expect("a write");
    }
    let points = store.metrics(JobId(9), 0, 100).await.expect("metrics");
    assert_eq!(bits(points.iter().map(|p| p.values["loss"])), bits(NUMBERS));
    assert!(
        points
            .iter()
            .all(|p| (p.step, p.unix_ms) == (u64::MAX, u64::MAX)),
        "{points:?}"
    );
    let stored = store.load().await.expect("jobs");
    assert!(
        stored.unreadable.is_empty(),
        "a number made its job unreadable"
    );
    for (id, v) in (100..).zip(NUMBERS) {
        let job = stored
            .jobs
            .iter()
            .find(|job| job.id == JobId(id))
            .expect("a job");
        assert!(
            bits(measured(job))
                .iter()
                .all(|&found| found == v.to_bits()),
            "{v}: {job:?}"
        );
        assert_eq!(job.progress.step, u64::MAX);
    }
}
