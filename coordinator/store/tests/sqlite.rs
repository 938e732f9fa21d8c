//! SQLite's file: it is locked, backed up, taken over from the first schema, and says which coordinator
//! it is of. What every store keeps is in the conformance suite.

mod common;

use common::{holder, is_identity, job, line, measuring};
use qlora_engine::{Attempt, JobId, JobState, Millis, Token};
use qlora_store::*;

#[tokio::test]
async fn sqlite_keeps_what_it_acknowledged_and_refuses_a_second_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    store
        .apply(vec![Write::SaveJob(Box::new(job(1)))])
        .await
        .expect("a write");
    assert!(matches!(
        SqliteStore::open(folder.path()).await,
        Err(StoreError::InUse { .. })
    ));
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    assert_eq!(again.load().await.expect("jobs").jobs, [job(1)]);
}

/// As the document on backups has it: while the coordinator runs, and with nothing but SQL.
#[tokio::test]
async fn a_backup_of_a_database_in_use_is_restored_with_everything() {
    use sqlx::Connection;
    let (from, to) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let store = SqliteStore::open(from.path()).await.expect("a store");
    let writes = vec![
        Write::SaveJob(Box::new(job(1))),
        Write::Logs {
            job: JobId(1),
            lines: vec![line("a")],
        },
    ];
    store.apply(writes).await.expect("writes");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(from.path().join("qlora.db"));
    let mut session = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("a session");
    sqlx::query("VACUUM INTO ?")
        .bind(to.path().join("qlora.db").to_string_lossy().into_owned())
        .execute(&mut session)
        .await
        .expect("a backup");
    let backed_up = store.load().await.expect("jobs");
    let later = vec![Write::SaveJob(Box::new(job(2)))];
    store.apply(later).await.expect("a write after it");
    let restored = SqliteStore::open(to.path()).await.expect("a store");
    assert_eq!(restored.load().await.expect("jobs"), backed_up);
    let lines = restored.logs(JobId(1), 0, 10).await.expect("logs");
    assert_eq!(lines.len(), 1);
}

#[tokio::test]
async fn a_database_says_which_coordinator_it_is_for_ever_and_no_other_says_the_same() {
    let (one, other) = (
        tempfile::tempdir().expect("a folder"),
        tempfile::tempdir().expect("a folder"),
    );
    let id = async |folder: &tempfile::TempDir| {
        let store = SqliteStore::open(folder.path()).await.expect("a store");
        store.load().await.expect("jobs").coordinator_id
    };
    let first = id(&one).await;
    assert_eq!(id(&one).await, first, "a restart made it another one");
    assert_ne!(id(&other).await, first);
    let in_memory = async || {
        MemoryStore::default()
            .load()
            .await
            .expect("jobs")
            .coordinator_id
    };
    assert_ne!(in_memory().await, in_memory().await);
}

/// A database as the first version of the schema left it, with NaN as `null`, and a row that holds
/// no JSON.
#[tokio::test]
async fn a_database_of_the_first_schema_is_taken_over_with_all_its_jobs() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("qlora.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut old = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("a database");
    sqlx::raw_sql(include_str!("../migrations/0001_start.sql"))
        .execute(&mut old)
        .await
        .expect("the old schema");
    sqlx::raw_sql("PRAGMA user_version = 1")
        .execute(&mut old)
        .await
        .expect("its version");
    let mut running = job(1);
    running
        .attempts
        .push(Attempt::new(Token(41), holder("w"), Vec::new(), Millis(1)));
    running.state = JobState::Running {
        token: Token(41),
        worker: "w".into(),
        stopping: None,
    };
    let scored = measuring(2, f64::NAN);
    for job in [&running, &scored] {
        let (spec, body) = (
            serde_json::to_string(&job.spec).expect("JSON"),
            serde_json::to_string(job).expect("JSON"),
        );
        let add = sqlx::query("INSERT INTO jobs (id, spec, body) VALUES (?, ?, ?)");
        let add = add
            .bind(job.id.0 as i64)
            .bind(spec)
            .bind(body.replace("\"NaN\"", "null"));
        add.execute(&mut old).await.expect("a job");
    }
    let line =
        "INSERT INTO journal (unix_ms, job, worker, kind, text) VALUES (3, 1, NULL, 'x', 'a line')";
    sqlx::raw_sql(line).execute(&mut old).await.expect("a line");
    let add = "INSERT INTO jobs (id, spec, body) VALUES (3, '{', 'x')";
    sqlx::raw_sql(add).execute(&mut old).await.expect("a job");
    old.close().await.expect("an end");

    let store = SqliteStore::open(folder.path()).await.expect("a store");
    let stored = store.load().await.expect("jobs");
    assert_eq!(
        stored.jobs.iter().map(|job| job.id.0).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(stored.jobs[0], running);
    let scores = stored.jobs[1].progress.scores.as_ref().expect("scores");
    assert!(scores.loss.is_nan() && scores.calls.as_ref().expect("calls").exact_match.is_nan());
    assert_eq!(
        stored.unreadable.iter().map(|u| u.job).collect::<Vec<_>>(),
        [JobId(3)]
    );
    assert_eq!(stored.reserved.job, JobId(3));
    assert!(
        is_identity(&stored.coordinator_id),
        "{}",
        stored.coordinator_id
    );
    assert!(stored.drains.is_empty());
    let lines = store.journal(0, 10).await.expect("the journal");
    assert_eq!((lines[0].text.as_str(), &lines[0].by), ("a line", &None));
    assert_eq!(store.tokens().await.expect("tokens"), []);
    // What the row without JSON had is not known, so none of what it may have had is given again.
    assert!(
        stored.reserved.token > Token(41 + 1000),
        "{:?}",
        stored.reserved
    );
}
