//! Drained workers.

use std::collections::BTreeMap;

use qlora_engine::{Drain, Millis};
use qlora_store::*;

use crate::common::job;

fn drain(since: u64, reason: &str) -> Drain {
    Drain {
        since: Millis(since),
        reason: reason.into(),
    }
}

pub async fn keeps_drains(store: &impl JobStore) {
    let save = |worker: &str, drain: Option<Drain>| Write::SaveDrain {
        worker: worker.into(),
        drain,
    };
    let drained = async || store.load().await.expect("drains").drains;
    assert_eq!(drained().await, BTreeMap::new());
    let writes = vec![
        save("a", Some(drain(1, "new disk"))),
        save("größer", Some(drain(2, ""))),
        save("gone", Some(drain(3, "x"))),
        save("gone", None),
        save("never", None),
        Write::SaveJob(Box::new(job(1))),
    ];
    store.apply(writes).await.expect("writes");
    let kept = [
        ("a".to_owned(), drain(1, "new disk")),
        ("größer".to_owned(), drain(2, "")),
    ];
    assert_eq!(drained().await, BTreeMap::from(kept));
    let writes = vec![save("a", Some(drain(1, "line\none"))), save("größer", None)];
    store.apply(writes).await.expect("writes");
    let kept = BTreeMap::from([("a".to_owned(), drain(1, "line\none"))]);
    assert_eq!(drained().await, kept);
}

/// What [`keeps_drains`] left is there when the store is opened once more.
pub async fn are_still_drained(again: &impl JobStore) {
    let drains = again.load().await.expect("drains").drains;
    assert_eq!(drains.into_keys().collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn drained_workers_are_kept_by_name_until_they_are_undrained() {
    keeps_drains(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    keeps_drains(&store).await;
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    are_still_drained(&again).await;
}
