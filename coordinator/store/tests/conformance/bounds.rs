//! What grows is trimmed.

use std::collections::BTreeMap;

use qlora_engine::JobId;
use qlora_store::*;

use crate::common::{entry, line, point};

/// Small ones, so that a few hundred additions pass them.
pub const BOUNDS: Bounds = Bounds {
    log_lines: 200,
    points: 20,
    stretches: 4,
    entries: 300,
    asked: 5,
};

pub async fn trims(store: impl JobStore) {
    let of = JobId(1);
    for n in 0..100 {
        let lines: Vec<LogRecord> = (0..10).map(|i| line(&format!("{n} {i}"))).collect();
        let low = MetricRecord {
            values: BTreeMap::from([("loss".into(), -1.0)]),
            ..point(7)
        };
        let points = vec![point(n), if n == 13 { low } else { point(n) }];
        let writes = vec![
            Write::Logs { job: of, lines },
            Write::Metrics { job: of, points },
            Write::Journal(entry("x")),
            Write::Journal(entry("y")),
            Write::Journal(entry("z")),
            Write::Journal(entry("w")),
        ];
        let entries = store.apply(writes).await.expect("writes");
        let numbers: Vec<u64> = entries.iter().map(|e| e.seq).collect();
        assert_eq!(numbers, [1, 2, 3, 4].map(|i| 4 * n + i), "numbers go on");
    }
    let lines = store.logs(of, 0, 10_000).await.expect("logs");
    let seqs: Vec<u64> = lines.iter().map(|l| l.seq).collect();
    assert_eq!(seqs, (801..=1000).collect::<Vec<_>>());
    assert_eq!(lines[0].text, "80 0");
    let page = store.logs(of, 5, 3).await.expect("logs");
    assert_eq!(
        page.iter().map(|l| l.seq).collect::<Vec<_>>(),
        [801, 802, 803]
    );
    let last = store.last_logs(of, 2).await.expect("logs");
    assert_eq!(last.iter().map(|l| l.seq).collect::<Vec<_>>(), [999, 1000]);
    let journal = store.journal(0, 10_000).await.expect("the journal");
    let seqs: Vec<u64> = journal.iter().map(|e| e.seq).collect();
    // It was trimmed last at 399.
    assert_eq!(seqs, (100..=400).collect::<Vec<_>>());

    // Of the 180 points before the newest 20 one stretch is 64.
    let points = store.metrics(of, 0, 10_000).await.expect("metrics");
    let old: Vec<u64> = points
        .iter()
        .map(|p| p.seq)
        .filter(|seq| *seq <= 180)
        .collect();
    let new: Vec<u64> = points
        .iter()
        .map(|p| p.seq)
        .filter(|seq| *seq > 180)
        .collect();
    assert_eq!(new, (181..=200).collect::<Vec<_>>());
    assert!(old.len() <= 3 * 3, "{old:?}");
    for telling in [1, 28, 65, 129, 180] {
        assert!(old.contains(&telling), "{telling} of {old:?}");
    }
    let page = store.metrics(of, 170, 2).await.expect("metrics");
    assert_eq!(page.iter().map(|p| p.seq).collect::<Vec<_>>(), [180, 181]);
}

#[tokio::test]
async fn what_grows_is_trimmed_to_its_newest_and_most_telling_parts() {
    trims(MemoryStore::within(BOUNDS)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open_within(folder.path(), BOUNDS).await;
    trims(store.expect("a store")).await;
}

pub async fn keeps_what_was_asked_for(store: impl JobStore) {
    let by = By {
        who: "ci".into(),
        from: "127.0.0.1:5".into(),
        act: "submit".into(),
    };
    let asked = || JournalEntry {
        by: Some(by.clone()),
        ..entry("asked")
    };
    let first = (0..10).map(|_| Write::Journal(asked()));
    let flood = (0..400).map(|_| Write::Journal(entry("x")));
    let writes = first.chain(flood).collect();
    store.apply(writes).await.expect("writes");
    let journal = store.journal(0, 10_000).await.expect("the journal");
    let seqs: Vec<u64> = journal.iter().map(|e| e.seq).collect();
    // It was trimmed last at 408; of the ten that somebody asked for the newest five stay.
    assert_eq!(seqs, (6..=10).chain(109..=410).collect::<Vec<_>>());
    assert!(journal[..5].iter().all(|e| e.by.as_ref() == Some(&by)));
}

#[tokio::test]
async fn no_flood_of_entries_washes_out_what_somebody_asked_for() {
    keeps_what_was_asked_for(MemoryStore::within(BOUNDS)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open_within(folder.path(), BOUNDS).await;
    keeps_what_was_asked_for(store.expect("a store")).await;
}
