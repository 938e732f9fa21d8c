//! Lists of jobs, and what a start reads of ended ones.

use qlora_engine::{Ended, Job, JobId, JobState, Millis};
use qlora_store::*;

use crate::common::job;

fn wanted(states: &[&'static str], before: u64, limit: u32) -> JobQuery {
    JobQuery {
        states: (!states.is_empty()).then(|| states.to_vec()),
        before: JobId(before),
        limit,
    }
}

/// Jobs 1 to 9: of each three the first waits, the second has failed and the third was cancelled.
pub async fn lists(store: &impl JobStore) {
    let ended = |id: u64| match id % 3 {
        1 => job(id),
        2 => Job {
            state: JobState::Failed {
                at: Millis(10 - id),
                reason: "r".into(),
                code: String::new(),
            },
            ..job(id)
        },
        _ => Job {
            state: JobState::Cancelled {
                at: Millis(10 - id),
                reason: "r".into(),
            },
            ..job(id)
        },
    };
    for id in 1..=9 {
        // As it was before its end, and as it is.
        let writes = [job(id), ended(id)].map(|job| Write::SaveJob(Box::new(job)));
        store.apply(writes.to_vec()).await.expect("a write");
    }
    let asked = async |wanted: JobQuery| {
        let page = store.jobs(&wanted).await.expect("a page");
        let ids: Vec<u64> = page.jobs.iter().map(|job| job.id.0).collect();
        assert!(page.jobs.iter().all(|job| *job == ended(job.id.0)));
        (ids, page.next.map(|next| next.0))
    };
    let all = u64::MAX;
    assert_eq!(
        asked(wanted(&[], all, 4)).await,
        (vec![9, 8, 7, 6], Some(6))
    );
    assert_eq!(asked(wanted(&[], 6, 4)).await, (vec![5, 4, 3, 2], Some(2)));
    assert_eq!(asked(wanted(&[], 2, 4)).await, (vec![1], None));
    assert_eq!(asked(wanted(&[], 1, 4)).await, (vec![], None));
    assert_eq!(
        asked(wanted(&["failed"], all, 3)).await,
        (vec![8, 5, 2], None)
    );
    assert_eq!(
        asked(wanted(&["failed", "failed"], all, 3)).await,
        (vec![8, 5, 2], None)
    );
    let two = ["queued", "cancelled"];
    assert_eq!(asked(wanted(&two, all, 3)).await, (vec![9, 7, 6], Some(6)));
    assert_eq!(asked(wanted(&two, 6, 3)).await, (vec![4, 3, 1], None));
    assert_eq!(asked(wanted(&["running"], all, 3)).await, (vec![], None));
    let nothing = JobQuery {
        states: Some(Vec::new()),
        ..wanted(&[], all, 3)
    };
    assert_eq!(asked(nothing).await, (vec![], None));
    let gone = vec![Write::RemoveJob(JobId(8))];
    store.apply(gone).await.expect("a write");
    assert_eq!(asked(wanted(&["failed"], all, 3)).await, (vec![5, 2], None));
    let stored = store.load().await.expect("jobs");
    let live: Vec<u64> = stored.jobs.iter().map(|job| job.id.0).collect();
    assert_eq!(live, [1, 4, 7]);
    let mut found: Vec<Ended> = stored.ended;
    found.sort_by_key(|ended| ended.id);
    let wanted = [2, 3, 5, 6, 9].map(|id| Ended::of(&ended(id)).expect("it has ended"));
    assert_eq!(found, wanted);
}

#[tokio::test]
async fn lists_are_by_state_and_number_and_a_start_reads_ended_jobs_in_brief() {
    lists(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    lists(&SqliteStore::open(folder.path()).await.expect("a store")).await;
}
