//! Jobs that move from SQLite to PostgreSQL, with a real server.

mod common;
#[allow(dead_code)]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::path::Path;

use common::{entry, job, lead, line, measuring, point};
use postgres::Postgres;
use qlora_engine::{Drain, JobId, JobState, Millis};
use qlora_store::{
    Bounds, By, JobStore, Moved, SetAside, SqliteStore, StoreError, TokenRecord, Write, move_all,
};
use sqlx::{Connection, PgConnection, SqliteConnection};

/// More rows than travel together.
const POINTS: u64 = 1_234;

/// A store with some of everything, whose numbers are not the next ones.
async fn filled(folder: &Path) -> SqliteStore {
    let store = SqliteStore::open(folder).await.expect("a store");
    let mut ended = job(2);
    ended.state = JobState::Succeeded { at: Millis(9) };
    let by = By {
        who: "ann".into(),
        from: "10.0.0.1".into(),
        act: "cancel".into(),
    };
    let mut asked = entry("cancelled");
    asked.by = Some(by.clone());
    let token = TokenRecord {
        id: 3,
        name: "ann".into(),
        role: "viewer".into(),
        hash: "ab".into(),
        created_unix_ms: 1,
        expires_unix_ms: Some(u64::MAX >> 1),
        revoked_unix_ms: None,
        used_day: Some(7),
    };
    let drain = Drain {
        since: Millis(4),
        reason: "a disk".into(),
    };
    let writes = vec![
        Write::SaveJob(Box::new(measuring(1, 0.1 + 0.2))),
        Write::SaveJob(Box::new(ended)),
        Write::SaveJob(Box::new(job(9))),
        Write::RemoveJob(JobId(9)),
        Write::Metrics {
            job: JobId(1),
            points: (1..=POINTS).map(point).collect(),
        },
        Write::Logs {
            job: JobId(2),
            lines: vec![line("a \u{2014} b"), line("nul \0 in it")],
        },
        Write::Journal(entry("submitted")),
        Write::Journal(asked),
        Write::SaveDrain {
            worker: "w".into(),
            drain: Some(drain),
        },
        Write::AddToken(Box::new(token)),
    ];
    store.apply(writes).await.expect("a write");
    let put = store.put_config("c", "a: 1\n", "h", 5, Some(by));
    put.await.expect("a configuration");
    store
}

#[tokio::test]
async fn a_database_moves_whole_and_goes_on_with_the_same_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Postgres::start();
    let url = server.database("jobs");
    // A copy is what it is compared with.
    let copy = tempfile::tempdir().expect("a folder");
    drop(filled(folder.path()).await);
    let file = copy.path().join("qlora.db");
    let copied = SqliteStore::back_up(folder.path(), &file);
    copied.await.expect("a copy");
    let old = SqliteStore::open(copy.path()).await.expect("a store");
    let new = lead(&url, Bounds::default()).await;
    let aside = SetAside::of(folder.path()).await.expect("a database");
    let Moved::Rows(rows) = move_all(&aside, &new).await.expect("a move") else {
        panic!("it was there before");
    };
    let of = |name| rows.iter().find(|row| row.0 == name).map(|row| row.1);
    assert_eq!(
        (of("jobs"), of("ended"), of("metrics"), of("tokens")),
        (Some(2), Some(1), Some(POINTS), Some(1))
    );
    let all = u32::MAX;
    assert_eq!(
        new.load().await.expect("jobs"),
        old.load().await.expect("jobs")
    );
    for id in [1, 2].map(JobId) {
        assert_eq!(
            new.job(id).await.expect("a job"),
            old.job(id).await.expect("a job")
        );
        let points = new.metrics(id, 0, all).await.expect("points");
        assert_eq!(points, old.metrics(id, 0, all).await.expect("points"));
    }
    let mut lines = old.logs(JobId(2), 0, all).await.expect("lines");
    assert_eq!(lines[1].text, "nul \0 in it");
    lines[1].text = "nul \u{2400} in it".into();
    assert_eq!(new.logs(JobId(2), 0, all).await.expect("lines"), lines);
    let journal = old.journal(0, all).await.expect("a journal");
    assert_eq!(new.journal(0, all).await.expect("a journal"), journal);
    assert_eq!(
        new.tokens().await.expect("tokens"),
        old.tokens().await.expect("tokens")
    );
    assert_eq!(
        new.configs(None).await.expect("all"),
        old.configs(None).await.expect("all")
    );
    // What comes next has the next number, and a job that was removed is not given again.
    let next = new
        .apply(vec![Write::Journal(entry("later"))])
        .await
        .expect("a write");
    assert_eq!(next[0].seq, journal.len() as u64 + 1);
    assert_eq!(new.load().await.expect("jobs").reserved.job, JobId(9));

    // As after a move that was cut off behind its commit.
    drop(aside);
    assert!(matches!(
        SqliteStore::open(folder.path()).await,
        Err(StoreError::Moving { .. })
    ));
    let aside = SetAside::of(folder.path()).await.expect("a database");
    let again = move_all(&aside, &new).await.expect("a move");
    assert_eq!(again, Moved::Before);
    let kept = aside.done().await.expect("a file");
    assert!(kept.ends_with("qlora.db.moved") && kept.is_file());
    for refused in [
        SqliteStore::open(folder.path()).await.err(),
        SetAside::of(folder.path()).await.err(),
    ] {
        assert!(matches!(refused, Some(StoreError::Moved { .. })));
    }
    // Another one of that name stays.
    std::fs::rename(&kept, folder.path().join("qlora.db")).expect("a way back");
    std::fs::write(&kept, "kept").expect("a file");
    let aside = SetAside::of(folder.path()).await.expect("a database");
    let other = aside.done().await.expect("a file");
    assert!(other.ends_with("qlora.db.moved-2"));
    assert_eq!(std::fs::read(&kept).expect("a file"), b"kept");
}

#[tokio::test]
async fn a_database_that_holds_something_takes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Postgres::start();
    drop(filled(folder.path()).await);
    let new = lead(&server.database("jobs"), Bounds::default()).await;
    let own = vec![Write::SaveJob(Box::new(job(7)))];
    new.apply(own).await.expect("a write");
    let before = new.load().await.expect("jobs");
    let aside = SetAside::of(folder.path()).await.expect("a database");
    let fault = move_all(&aside, &new).await.expect_err("a refusal");
    assert!(matches!(fault, StoreError::Taken { .. }), "{fault}");
    assert_eq!(new.load().await.expect("jobs"), before);
    aside.put_back().await.expect("a name");
    let old = SqliteStore::open(folder.path()).await.expect("a store");
    assert_eq!(old.load().await.expect("jobs").jobs.len(), 1);
}

/// What is in the log only would be lost with it.
#[tokio::test]
async fn a_database_that_another_program_reads_is_not_set_aside() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = filled(folder.path()).await;
    let path = format!("sqlite://{}", folder.path().join("qlora.db").display());
    let mut reader = SqliteConnection::connect(&path).await.expect("a session");
    sqlx::raw_sql("BEGIN; SELECT COUNT(*) FROM jobs")
        .execute(&mut reader)
        .await
        .expect("a snapshot");
    let later = vec![Write::SaveJob(Box::new(job(5)))];
    store.apply(later).await.expect("a write");
    drop(store);
    let fault = SetAside::of(folder.path()).await.err();
    assert!(matches!(fault, Some(StoreError::Busy { .. })), "{fault:?}");
    reader.close().await.expect("an end");
    SetAside::of(folder.path()).await.expect("a database");
}

/// Tables and columns of each database; a new one has to be moved too.
#[tokio::test]
async fn every_table_and_column_is_moved() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Postgres::start();
    let url = server.database("jobs");
    drop(filled(folder.path()).await);
    drop(lead(&url, Bounds::default()).await);
    let sqlite = "SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%'";
    let postgres = "SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = 'qlora'";
    let path = format!("sqlite://{}", folder.path().join("qlora.db").display());
    let mut session = SqliteConnection::connect(&path).await.expect("a session");
    let of_sqlite: Vec<String> = sqlx::query_scalar(sqlite)
        .fetch_all(&mut session)
        .await
        .expect("columns");
    let mut session = PgConnection::connect(&url).await.expect("a session");
    let of_postgres: Vec<String> = sqlx::query_scalar(postgres)
        .fetch_all(&mut session)
        .await
        .expect("columns");
    // What each database counts by itself, and what a move sets.
    let own = ["counters.", "identity.", "leader.", "version."];
    let of = |columns: Vec<String>| -> BTreeSet<String> {
        let is_own = |column: &String| own.iter().any(|table| column.starts_with(table));
        columns
            .into_iter()
            .filter(|column| !is_own(column))
            .collect()
    };
    let moved: BTreeSet<String> = qlora_store::moved_columns().collect();
    assert_eq!(of(of_sqlite), moved);
    assert_eq!(of(of_postgres), moved);
}
