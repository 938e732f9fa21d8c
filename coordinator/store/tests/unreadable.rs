//! A row that cannot be read is named and passed over, in every table; it hides no other one. A row
//! of an earlier version can be read.

mod common;

use std::path::Path;

use common::{entry, holder, job, line, point};
use qlora_engine::{Attempt, AttemptEnd, Ended, Job, JobId, JobState, Millis, Outcome, Token};
use qlora_store::*;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};

/// Changes the database behind the store's back.
async fn change(folder: &Path, sql: impl Into<String>) {
    let options = SqliteConnectOptions::new().filename(folder.join("qlora.db"));
    let mut connection = SqliteConnection::connect_with(&options)
        .await
        .expect("a database");
    sqlx::raw_sql(AssertSqlSafe(sql.into()))
        .execute(&mut connection)
        .await
        .expect("a change");
    connection.close().await.expect("an end");
}

fn running(id: u64, token: u64, key: Option<&str>) -> Job {
    let mut job = job(id);
    job.spec.idempotency_key = key.map(str::to_owned);
    job.attempts.push(Attempt::new(
        Token(token),
        holder("w"),
        Vec::new(),
        Millis(1),
    ));
    job.state = JobState::Running {
        token: Token(token),
        worker: "w".into(),
        stopping: None,
    };
    job
}

/// `job` once its attempt has succeeded and has used something.
fn succeeded(at: u64, mut job: Job) -> Job {
    let at = Millis(at);
    for attempt in &mut job.attempts {
        attempt.end = Some(AttemptEnd {
            at,
            outcome: Outcome::Succeeded,
            message: String::new(),
            code: String::new(),
        });
    }
    job.state = JobState::Succeeded { at };
    job
}

async fn with_three_jobs(folder: &Path) -> SqliteStore {
    let store = SqliteStore::open(folder).await.expect("a store");
    let jobs = [
        running(1, 10, None),
        running(2, 30, Some("a key")),
        running(3, 20, None),
    ];
    let writes = jobs
        .into_iter()
        .map(|job| Write::SaveJob(Box::new(job)))
        .collect();
    store.apply(writes).await.expect("a write");
    store
}

#[tokio::test]
async fn a_job_that_cannot_be_read_is_set_aside_and_named_and_nothing_of_it_is_given_again() {
    // What is done to the row, whether the key of the job can still be read, and what the fault
    // names.
    let ways = [
        ("UPDATE jobs SET body = '' WHERE id = 2", true, "body"),
        (
            "UPDATE jobs SET body = '[1]' WHERE id = 2",
            true,
            "not an object",
        ),
        (
            "UPDATE jobs SET body = substr(body, 1, 40) WHERE id = 2",
            true,
            "body",
        ),
        (
            "UPDATE jobs SET body = json_remove(body, '$.created') WHERE id = 2",
            true,
            "created",
        ),
        (
            "UPDATE jobs SET body = json_set(body, '$.state', 'Lost') WHERE id = 2",
            true,
            "Lost",
        ),
        (
            "UPDATE jobs SET body = json_set(body, '$.progress.loss', 'soon') WHERE id = 2",
            true,
            "soon",
        ),
        (
            "UPDATE jobs SET body = json_set(body, '$.id', 3) WHERE id = 2",
            true,
            "it is job 3",
        ),
        (
            "UPDATE jobs SET body = json_set(body, '$.attempts', json('[]')) WHERE id = 2",
            true,
            "nobody holds",
        ),
        (
            "UPDATE jobs SET body = CAST(x'ff7b7d' AS TEXT) WHERE id = 2",
            true,
            "utf",
        ),
        ("UPDATE jobs SET spec = '{' WHERE id = 2", false, "spec"),
        (
            "UPDATE jobs SET spec = CAST(x'ff' AS TEXT) WHERE id = 2",
            false,
            "utf",
        ),
    ];
    for (sql, with_key, named) in ways {
        let folder = tempfile::tempdir().expect("a folder");
        drop(with_three_jobs(folder.path()).await);
        change(folder.path(), sql).await;
        let store = SqliteStore::open(folder.path()).await.expect("a start");
        let stored = store.load().await.expect("jobs");
        assert_eq!(
            stored.jobs,
            [running(1, 10, None), running(3, 20, None)],
            "{sql}"
        );
        let [unreadable] = stored.unreadable.as_slice() else {
            panic!("{sql}: {:?}", stored.unreadable)
        };
        assert_eq!(unreadable.job, JobId(2));
        assert!(
            unreadable
                .fault
                .to_lowercase()
                .contains(&named.to_lowercase()),
            "{sql}: {}",
            unreadable.fault
        );
        assert_eq!(
            stored.reserved.token,
            Token(30),
            "{sql}: the token of the job would be given again"
        );
        let keys = if with_key {
            vec![("a key".to_owned(), JobId(2))]
        } else {
            Vec::new()
        };
        assert_eq!(stored.reserved.keys, keys, "{sql}");
        // Others are written as before, and what was set aside stays as it is.
        store
            .apply(vec![Write::SaveJob(Box::new(job(4)))])
            .await
            .expect("a write");
        let again = store.load().await.expect("jobs");
        assert_eq!(
            (again.jobs.len(), again.unreadable),
            (3, stored.unreadable),
            "{sql}"
        );
    }
}

#[tokio::test]
async fn numbers_of_the_last_job_are_not_given_again_when_its_row_is_gone() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(with_three_jobs(folder.path()).await);
    change(folder.path(), "DELETE FROM jobs WHERE id > 1").await;
    let stored = SqliteStore::open(folder.path())
        .await
        .expect("a start")
        .load()
        .await
        .expect("jobs");
    assert_eq!(
        (stored.reserved.job, stored.reserved.token),
        (JobId(3), Token(30))
    );
}

#[tokio::test]
async fn counters_that_are_missing_are_made_anew_and_give_nothing_again() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(with_three_jobs(folder.path()).await);
    change(folder.path(), "DELETE FROM counters").await;
    for _ in 0..2 {
        let store = SqliteStore::open(folder.path()).await.expect("a start");
        let stored = store.load().await.expect("jobs");
        assert_eq!((stored.jobs.len(), stored.reserved.job), (3, JobId(3)));
        // An attempt that only the counters told of may have been given.
        assert_eq!(stored.reserved.token.number(), 1_000_000);
        store
            .apply(vec![Write::SaveJob(Box::new(running(3, 20, None)))])
            .await
            .expect("a write");
    }
}

/// Overwrites the database from `offset` on with what is none.
fn overwrite(folder: &Path, offset: usize) {
    let path = folder.join("qlora.db");
    let mut bytes = std::fs::read(&path).expect("a database");
    bytes[offset..].fill(0xa5);
    std::fs::write(&path, bytes).expect("damage");
    for beside in ["qlora.db-wal", "qlora.db-shm"] {
        let _ = std::fs::remove_file(folder.join(beside));
    }
}

#[tokio::test]
async fn a_damaged_database_is_named_as_such_with_the_way_out() {
    for (offset, said) in [(0, "file is not a database"), (4096, "malformed")] {
        let folder = tempfile::tempdir().expect("a folder");
        drop(with_three_jobs(folder.path()).await);
        change(folder.path(), "PRAGMA wal_checkpoint(TRUNCATE)").await;
        overwrite(folder.path(), offset);
        let Err(fault) = SqliteStore::open(folder.path()).await else {
            panic!("it opens");
        };
        assert!(matches!(fault, StoreError::Damaged { .. }), "{fault}");
        let text = fault.to_string();
        for part in [said, "is damaged: ", "qlora.db", ".recover"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[tokio::test]
async fn rows_of_every_other_table_are_passed_over_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = with_three_jobs(folder.path()).await;
    let points = (1..=4).map(point).collect();
    let lines = ["one", "two", "three"].map(line).to_vec();
    let mut writes = vec![
        Write::Metrics {
            job: JobId(1),
            points,
        },
        Write::Logs {
            job: JobId(1),
            lines,
        },
    ];
    writes.extend(["a", "b", "c"].map(|kind| Write::Journal(entry(kind))));
    store.apply(writes).await.expect("a write");
    for text in ["first", "second", "third"] {
        store
            .put_config("c", text, text, 1, None)
            .await
            .expect("a revision");
    }
    drop(store);
    let damage = [
        "UPDATE metrics SET vals = '{\"loss\":' WHERE seq = 2",
        "UPDATE metrics SET vals = CAST(x'ff' AS TEXT) WHERE seq = 3",
        "UPDATE logs SET text = CAST(x'74776fff' AS TEXT) WHERE seq = 2",
        "UPDATE logs SET level = CAST(x'ff' AS TEXT) WHERE seq = 3",
        "UPDATE journal SET kind = CAST(x'62ff' AS TEXT), worker = CAST(x'ff' AS TEXT) WHERE seq = 2",
        "UPDATE configs SET yaml = CAST(x'ff' AS TEXT) WHERE revision = 2",
        "UPDATE configs SET hash = CAST(x'ff' AS TEXT) WHERE revision = 3",
    ];
    change(folder.path(), damage.join(";")).await;

    let store = SqliteStore::open(folder.path()).await.expect("a start");
    assert!(store.load().await.expect("jobs").unreadable.is_empty());
    let points = store.metrics(JobId(1), 0, 10).await.expect("metrics");
    assert_eq!(
        points.iter().map(|p| (p.seq, p.step)).collect::<Vec<_>>(),
        [(1, 1), (2, 2), (3, 3), (4, 4)]
    );
    assert_eq!(
        points.iter().map(|p| p.values.len()).collect::<Vec<_>>(),
        [1, 0, 0, 1]
    );
    let lines = store.logs(JobId(1), 0, 10).await.expect("logs");
    assert_eq!(
        lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>(),
        ["one", "two\u{fffd}", "three"]
    );
    // A reader goes on behind the row.
    assert_eq!(store.logs(JobId(1), 2, 10).await.expect("logs").len(), 1);
    let journal = store.journal(0, 10).await.expect("journal");
    assert_eq!(
        journal
            .iter()
            .map(|e| (e.seq, e.kind.as_str()))
            .collect::<Vec<_>>(),
        [(1, "a"), (2, "b\u{fffd}"), (3, "c")]
    );

    let revisions =
        |all: Vec<ConfigRevision>| all.into_iter().map(|c| c.revision).collect::<Vec<_>>();
    assert_eq!(
        revisions(store.configs(Some("c")).await.expect("configs")),
        [1]
    );
    assert_eq!(
        revisions(store.configs(None).await.expect("configs")),
        [0u64; 0]
    );
    let damaged = store.config("c", 2).await;
    assert!(
        matches!(&damaged, Err(StoreError::Unreadable { what, .. }) if what == "configuration c revision 2"),
        "{damaged:?}"
    );
    // The next revision does not take the number of a damaged one.
    assert_eq!(
        store
            .put_config("c", "third", "third", 1, None)
            .await
            .expect("a revision")
            .revision,
        4
    );
    assert_eq!(store.config("c", 0).await.expect("a config").yaml, "third");
}

/// What a start reads of ended jobs is damaged: of the first one its brief, of the second the job.
#[tokio::test]
async fn an_ended_job_is_known_by_its_brief_or_by_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = with_three_jobs(folder.path()).await;
    // What was submitted never changes, so that it is what the first write said.
    let ended = |id: u64| succeeded(id, running(id, 40, (id == 2).then_some("a key")));
    let writes = [2, 3].map(|id| Write::SaveJob(Box::new(ended(id))));
    store.apply(writes.to_vec()).await.expect("a write");
    drop(store);
    let damage =
        "UPDATE ended SET brief = '{' WHERE job = 2; UPDATE jobs SET body = '' WHERE id = 3";
    change(folder.path(), damage).await;
    let store = SqliteStore::open(folder.path()).await.expect("a start");
    let stored = store.load().await.expect("jobs");
    assert_eq!((stored.jobs.len(), stored.unreadable.len()), (1, 0));
    let known = [2, 3].map(|id| Ended::of(&ended(id)).expect("it has ended"));
    assert_eq!(stored.ended, known);
    assert_eq!(store.job(JobId(2)).await.expect("a job"), Some(ended(2)));
    let unreadable = store.job(JobId(3)).await;
    assert!(
        matches!(&unreadable, Err(StoreError::Unreadable { what, .. }) if what == "job 3"),
        "{unreadable:?}"
    );
    // It does not hide the others, and a page that lacks it is not the last one.
    let wanted = |before| JobQuery {
        states: None,
        before: JobId(before),
        limit: 1,
    };
    let page = store.jobs(&wanted(4)).await.expect("a page");
    assert_eq!((page.jobs.len(), page.next), (0, Some(JobId(3))));
    let page = store.jobs(&wanted(3)).await.expect("a page");
    assert_eq!(page.jobs, [ended(2)]);

    // Both are damaged: the job is set aside.
    let damage = "UPDATE ended SET brief = '{'";
    change(folder.path(), damage).await;
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.ended, known[..1]);
    let aside: Vec<JobId> = stored.unreadable.iter().map(|u| u.job).collect();
    assert_eq!(aside, [JobId(3)]);
}

/// Columns that earlier versions did not have are filled from what their rows hold.
#[tokio::test]
async fn ended_jobs_of_an_earlier_version_are_listed_and_known_in_brief() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = with_three_jobs(folder.path()).await;
    let ended = succeeded(9, running(2, 30, Some("a key")));
    store
        .apply(vec![Write::SaveJob(Box::new(ended.clone()))])
        .await
        .expect("a write");
    drop(store);
    let before =
        "UPDATE jobs SET state = ''; DELETE FROM ended; UPDATE jobs SET body = '' WHERE id = 3";
    change(folder.path(), before).await;
    for _ in 0..2 {
        let store = SqliteStore::open(folder.path()).await.expect("a start");
        let stored = store.load().await.expect("jobs");
        assert_eq!(stored.jobs, [running(1, 10, None)]);
        assert_eq!(stored.ended, [Ended::of(&ended).expect("it has ended")]);
        assert_eq!(stored.unreadable.len(), 1);
        let wanted = JobQuery {
            states: Some(vec!["succeeded"]),
            before: JobId(9),
            limit: 9,
        };
        let page = store.jobs(&wanted).await.expect("a page");
        assert_eq!(page.jobs, std::slice::from_ref(&ended));
    }
}

/// The records outlive the words that the code has for what they hold.
#[tokio::test]
async fn what_an_earlier_version_stored_under_its_own_words_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    drop(with_three_jobs(folder.path()).await);
    let sql = r#"UPDATE jobs SET spec = json_set(spec, '$.needs.main_memory', 7),
        body = json_set(body, '$.attempts[0].meeting', json('{"addresses": ["a:1"], "secret": [1]}'))
        WHERE id = 2"#;
    change(folder.path(), sql).await;
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    let stored = store.load().await.expect("jobs");
    let job = stored.jobs.iter().find(|job| job.id == JobId(2));
    let job = job.expect("the job");
    assert_eq!(job.spec.needs.host_memory, 7);
    let rendezvous = job.attempts[0].rendezvous.as_ref().expect("a rendezvous");
    assert_eq!(rendezvous.addresses, ["a:1"]);
}
