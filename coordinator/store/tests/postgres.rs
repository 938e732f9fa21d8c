//! Who leads with a PostgreSQL database, and what becomes of writes when the server fails. Tests
//! with a real server; what every store keeps is in the conformance suite.

mod common;
#[allow(dead_code)]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use common::{LIMIT, database, digest, entry, job, lead, leads, line, owner, point};
use postgres::Postgres;
use qlora_engine::JobId;
use qlora_store::{
    ArtifactStore, Bounds, Campaign, Candidate, JobStore, PostgresStore, StoreError, TokenRecord,
    Write,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::oneshot;
use tokio::time::timeout;

fn save(id: u64) -> Vec<Write> {
    vec![Write::SaveJob(Box::new(job(id)))]
}

async fn jobs(store: &PostgresStore) -> Vec<u64> {
    let stored = store.load().await.expect("jobs");
    stored.jobs.iter().map(|job| job.id.0).collect()
}

/// A session of whoever looks after the server.
async fn admin(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("a session")
}

async fn execute(url: &str, sql: &str) {
    let mut session = admin(url).await;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut session)
        .await
        .expect(sql);
}

#[tokio::test]
async fn one_leads_and_the_next_goes_on_with_all_that_was_acknowledged() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let first = lead(&url, Bounds::default()).await;
    let mut candidate = Candidate::new(database(&url));
    let answer = candidate.ask("b:1").await.expect("an answer");
    assert!(
        matches!(&answer, Campaign::Stands { leader } if leader.as_deref() == Some("a:1")),
        "two lead"
    );
    first.apply(save(1)).await.expect("a write");
    let before = first.load().await.expect("jobs");
    drop(first);
    let second = leads(&mut candidate, "b:1").await;
    assert_eq!(second.load().await.expect("jobs"), before);
    second.apply(save(2)).await.expect("a write");
    let mut third = Candidate::new(database(&url));
    let answer = third.ask("c:1").await.expect("an answer");
    assert!(matches!(answer, Campaign::Stands { leader } if leader.as_deref() == Some("b:1")));
}

/// The server ended the session that holds the lock, as it does where the network was cut; the
/// connection that writes is whole.
#[tokio::test]
async fn a_leader_that_lost_the_lock_writes_nothing_and_hears_of_it() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let old = lead(&url, Bounds::default()).await;
    old.apply(save(1)).await.expect("a write");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
    execute(&url, end).await;
    let new = leads(&mut Candidate::new(database(&url)), "b:1").await;
    let fault = old.apply(save(2)).await.expect_err("two leaders write");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    let fault = timeout(LIMIT, old.lost()).await.expect("word of the loss");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    assert_eq!(jobs(&new).await, [1]);
    new.apply(save(3)).await.expect("a write");
    assert_eq!(jobs(&new).await, [1, 3]);
}

/// An artifact lies where every leader finds it, and a new one may need what an old one does not.
#[tokio::test]
async fn a_deposed_leader_removes_no_artifact() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let old = lead(&url, Bounds::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let artifacts = ArtifactStore::open(folder.path(), &owner()).await;
    let artifacts = artifacts.expect("a store");
    let name = digest(b"x");
    let upload = artifacts.upload(&name, 1, 0).await;
    let mut upload = upload.expect("an upload");
    upload.write(b"x".to_vec()).await.expect("bytes");
    let finished = upload.finish().await.expect("the right bytes");
    finished.publish().await.expect("an artifact");
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'";
    execute(&url, end).await;
    let new = leads(&mut Candidate::new(database(&url)), "b:1").await;
    let remove = || {
        let (artifacts, name) = (artifacts.clone(), name.clone());
        async move { artifacts.release(&name, async { false }).await }
    };
    let fault = old.while_leading(remove()).await.expect_err("a removal");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    assert!(artifacts.look(&name).await.expect("a look").complete);
    assert!(new.while_leading(remove()).await.expect("a removal"));
    assert!(!artifacts.look(&name).await.expect("a look").complete);
}

#[tokio::test]
async fn nobody_begins_to_lead_while_the_leader_removes() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let old = lead(&url, Bounds::default()).await;
    let mut session = admin(&url).await;
    // As a new leader does, without patience.
    let begin = "SET lock_timeout = '100ms'; UPDATE qlora.leader SET epoch = epoch + 1";
    let removal = async move { sqlx::raw_sql(begin).execute(&mut session).await };
    let begun = timeout(LIMIT, old.while_leading(removal)).await;
    let fault = begun.expect("an end").expect("a removal");
    let fault = fault.expect_err("another leader begins").to_string();
    assert!(fault.contains("lock timeout"), "{fault}");
    execute(&url, begin).await;
    let late = old.while_leading(async { panic!("it removes") }).await;
    let fault: StoreError = late.expect_err("two lead");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
}

/// The server ends a transaction that is idle for 3 s.
#[tokio::test]
async fn nobody_begins_to_lead_before_the_end_of_a_removal_that_takes_long() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let old = lead(&url, Bounds::default()).await;
    let mut session = admin(&url).await;
    let begin = "SET lock_timeout = '100ms'; UPDATE qlora.leader SET epoch = epoch + 1";
    let removal = async move {
        tokio::time::sleep(Duration::from_secs(5)).await;
        sqlx::raw_sql(begin).execute(&mut session).await
    };
    let begun = timeout(LIMIT, old.while_leading(removal)).await;
    let begun = begun.expect("an end").expect("it is held");
    let fault = begun.expect_err("another leader begins").to_string();
    assert!(fault.contains("lock timeout"), "{fault}");
}

#[tokio::test]
async fn a_removal_goes_on_to_its_end_where_nobody_waits_for_it_any_more() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let leader = lead(&url, Bounds::default()).await;
    let (begins, begun) = oneshot::channel();
    let (goes_on, going) = oneshot::channel();
    let (ends, ended) = oneshot::channel();
    let removal = async move {
        begins.send(()).expect("somebody who waits");
        going.await.expect("word");
        ends.send(()).expect("somebody who waits");
    };
    tokio::select! {
        done = leader.while_leading(removal) => panic!("it has ended: {done:?}"),
        begun = begun => begun.expect("a beginning"),
    }
    goes_on.send(()).expect("a removal that goes on");
    timeout(LIMIT, ended)
        .await
        .expect("an end")
        .expect("an end");
}

#[tokio::test]
async fn a_removal_that_could_not_be_held_to_its_end_says_so() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let leader = lead(&url, Bounds::default()).await;
    let cut = url.clone();
    let removal = async move {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'";
        execute(&cut, end).await;
    };
    let fault = leader.while_leading(removal).await.expect_err("no hold");
    assert!(matches!(fault, StoreError::Unheld { .. }), "{fault}");
}

#[tokio::test]
async fn a_leader_hears_that_its_server_is_gone() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let leader = lead(&url, Bounds::default()).await;
    leader.apply(save(1)).await.expect("a write");
    server.stop();
    let fault = timeout(LIMIT, leader.lost())
        .await
        .expect("word of the loss");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    let mut candidate = Candidate::new(database(&url));
    let answer = candidate.ask("b:1").await.expect("an answer");
    assert!(matches!(answer, Campaign::Away(_)), "a server that is gone");
    server.restart();
    assert_eq!(jobs(&leads(&mut candidate, "b:1").await).await, [1]);
}

/// Lets every transaction that saves a job wait at its commit.
const SLOW: &str = "
CREATE FUNCTION qlora.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON qlora.jobs DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION qlora.slow()";

/// Starts a write, and returns once the server is at work on its commit.
async fn commits(
    store: &Arc<PostgresStore>,
    url: &str,
    id: u64,
) -> tokio::task::JoinHandle<Result<(), StoreError>> {
    let writing = store.clone();
    let write = tokio::spawn(async move { writing.apply(save(id)).await.map(drop) });
    let mut session = admin(url).await;
    let seen = async {
        loop {
            let at_commit: i64 = sqlx::query_scalar(
                "SELECT COUNT(*) FROM pg_stat_activity WHERE query = 'COMMIT' AND wait_event = 'PgSleep'",
            )
            .fetch_one(&mut session)
            .await
            .expect("activity");
            if at_commit > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, seen).await.expect("a commit");
    write
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = Arc::new(lead(&url, Bounds::default()).await);
    store.apply(save(1)).await.expect("a write");
    execute(&url, SLOW).await;
    let write = commits(&store, &url, 2).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'COMMIT'";
    execute(&url, end).await;
    let fault = write.await.expect("an end").expect_err("a lost commit");
    assert!(matches!(fault, StoreError::NotWritten { .. }), "{fault}");
    execute(&url, "DROP TRIGGER slow ON qlora.jobs").await;
    store.apply(save(3)).await.expect("the next write");
    assert_eq!(jobs(&store).await, [1, 3]);
}

/// Whoever waited for the commit is gone, and so is its connection; the server goes on with it.
#[tokio::test]
async fn state_is_read_only_once_no_commit_is_under_way() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = Arc::new(lead(&url, Bounds::default()).await);
    store.apply(save(1)).await.expect("a write");
    // The commit waits for the row of the gate.
    let gated = SLOW.replace(
        "PERFORM pg_sleep(600)",
        "WHILE NOT EXISTS (SELECT FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP",
    );
    execute(&url, "CREATE TABLE qlora.gate (one INTEGER)").await;
    execute(&url, &gated).await;
    let write = commits(&store, &url, 2).await;
    write.abort();
    write.await.expect_err("the write has ended");
    let reading = store.clone();
    let read = tokio::spawn(async move {
        loop {
            // A slow machine may pass the server's limit of the wait.
            if let Ok(stored) = reading.load().await {
                return stored.jobs.len();
            }
        }
    });
    let mut session = admin(&url).await;
    let waits = async {
        let blocked = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        loop {
            let count: i64 = sqlx::query_scalar(blocked)
                .fetch_one(&mut session)
                .await
                .expect("activity");
            if count > 0 || read.is_finished() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, waits).await.expect("a reader that waits");
    assert!(!read.is_finished(), "what is under way was passed over");
    execute(&url, "INSERT INTO qlora.gate VALUES (1)").await;
    assert_eq!(read.await.expect("jobs"), 2);
}

/// A leader that gives its server a second for each statement.
async fn impatient(url: &str) -> PostgresStore {
    let database = database(url).answering_within(Duration::from_secs(1));
    leads(&mut Candidate::new(database), "a:1").await
}

/// Sessions of which the server says that they wait so.
async fn waiting(session: &mut PgConnection, condition: &str) -> i64 {
    let count = format!("SELECT COUNT(*) FROM pg_stat_activity WHERE {condition}");
    let asked = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(session);
    asked.await.expect("activity")
}

/// A commit that waits for a replica.
const FOR_REPLICA: &str = "wait_event = 'SyncRep'";

/// Lets every commit wait for a replica that is not there, and returns once one does.
async fn lose_replica(url: &str) {
    execute(url, "CREATE TABLE probe (one INTEGER)").await;
    execute(url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    execute(url, "SELECT pg_reload_conf()").await;
    let mut session = admin(url).await;
    let lost = async {
        loop {
            // The server takes the setting over at a time of its own.
            let url = url.to_owned();
            let probe =
                tokio::spawn(async move { execute(&url, "INSERT INTO probe VALUES (1)").await });
            while !probe.is_finished() {
                if waiting(&mut session, FOR_REPLICA).await > 0 {
                    return probe.abort();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    timeout(LIMIT, lost).await.expect("a commit that waits");
}

/// No commit waits for a replica any more.
async fn give_up_replica(url: &str) {
    execute(url, "ALTER SYSTEM RESET synchronous_standby_names").await;
    execute(url, "SELECT pg_reload_conf()").await;
}

/// No setting of the server bounds that wait.
#[tokio::test]
async fn a_commit_that_waits_for_a_lost_replica_ends_the_leader_and_the_next_reads_it() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = impatient(&url).await;
    store.apply(save(1)).await.expect("a write");
    lose_replica(&url).await;
    let write = timeout(LIMIT, store.apply(save(2)));
    let fault = write.await.expect("an end").expect_err("nobody has it");
    assert!(matches!(fault, StoreError::Unsure { .. }), "{fault}");
    let fault = timeout(LIMIT, store.lost()).await.expect("word of the end");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    let fault = store
        .apply(save(3))
        .await
        .expect_err("it goes on as leader");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    // What is not on the replica is not told: the next one waits, as a standby does.
    drop(store);
    let patient = database(&url).answering_within(Duration::from_secs(1));
    let mut candidate = Candidate::new(patient);
    let answer = timeout(LIMIT, candidate.ask("b:1")).await;
    let answer = answer.expect("an end").expect("trouble that may pass");
    assert!(
        !matches!(answer, Campaign::Leads(_)),
        "nobody has the epoch"
    );
    give_up_replica(&url).await;
    let next = leads(&mut candidate, "b:1").await;
    assert_eq!(jobs(&next).await, [1, 2]);
    next.apply(save(3)).await.expect("a write");
}

/// The server shows such a commit as if it were whole.
#[tokio::test]
async fn a_commit_whose_wait_for_a_replica_was_cut_off_is_not_acknowledged() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = Arc::new(impatient(&url).await);
    store.apply(save(1)).await.expect("a write");
    lose_replica(&url).await;
    let writing = store.clone();
    let write = tokio::spawn(async move { writing.apply(save(2)).await });
    let mut session = admin(&url).await;
    let of_the_store = format!("{FOR_REPLICA} AND query = 'COMMIT'");
    let waits = async {
        while waiting(&mut session, &of_the_store).await == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, waits).await.expect("a commit that waits");
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {of_the_store}");
    execute(&url, &end).await;
    let ended = timeout(LIMIT, write)
        .await
        .expect("an end")
        .expect("an end");
    let fault = ended.expect_err("nobody has it");
    assert!(matches!(fault, StoreError::Unsure { .. }), "{fault}");
    let fault = timeout(LIMIT, store.lost()).await.expect("word of the end");
    assert!(matches!(fault, StoreError::Deposed { .. }), "{fault}");
    give_up_replica(&url).await;
}

#[tokio::test]
async fn a_statement_that_does_not_end_fails_alone() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = impatient(&url).await;
    let metrics = Write::Metrics {
        job: JobId(1),
        points: vec![point(1)],
    };
    store.apply(save(1)).await.expect("a write");
    store.apply(vec![metrics]).await.expect("a write");
    let slow = "
ALTER TABLE qlora.metrics RENAME TO kept;
CREATE VIEW qlora.metrics AS SELECT kept.* FROM qlora.kept, pg_sleep(600)";
    execute(&url, slow).await;
    let read = timeout(LIMIT, store.metrics(JobId(1), 0, 1));
    let fault = read.await.expect("an end").expect_err("no answer");
    assert!(matches!(fault, StoreError::Read { .. }), "{fault}");
    execute(&url, &SLOW.replace(" DEFERRABLE INITIALLY DEFERRED", "")).await;
    let write = timeout(LIMIT, store.apply(save(2)));
    let fault = write.await.expect("an end").expect_err("no answer");
    assert!(matches!(fault, StoreError::NotWritten { .. }), "{fault}");
    let asleep =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    execute(&url, asleep).await;
    execute(&url, "DROP TRIGGER slow ON qlora.jobs").await;
    store.apply(save(3)).await.expect("the next write");
    assert_eq!(jobs(&store).await, [1, 3]);
}

#[tokio::test]
async fn a_server_that_stops_at_a_commit_leaves_it_in_doubt_until_it_is_back() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = Arc::new(lead(&url, Bounds::default()).await);
    store.apply(save(1)).await.expect("a write");
    execute(&url, SLOW).await;
    let write = commits(&store, &url, 2).await;
    server.stop();
    let fault = write.await.expect("an end").expect_err("a lost commit");
    assert!(matches!(fault, StoreError::Unsure { .. }), "{fault}");
    server.restart();
    let next = leads(&mut Candidate::new(database(&url)), "b:1").await;
    assert_eq!(jobs(&next).await, [1]);
}

#[tokio::test]
async fn a_full_disk_of_the_server_fails_the_write_and_nothing_else() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = lead(&url, Bounds::default()).await;
    // What the server says where it finds no room for a page.
    let full = "
CREATE FUNCTION qlora.full() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER no_room BEFORE INSERT ON qlora.journal FOR EACH ROW EXECUTE FUNCTION qlora.full()";
    execute(&url, full).await;
    let batch = || {
        let mut batch = save(1);
        batch.push(Write::Journal(entry("x")));
        batch
    };
    let fault = store.apply(batch()).await.expect_err("a full disk");
    assert!(matches!(fault, StoreError::ServerFull { .. }), "{fault}");
    assert_eq!(fault.code().id(), "Q0607");
    assert!(
        jobs(&store).await.is_empty(),
        "a part of the batch is there"
    );
    execute(&url, "DROP TRIGGER no_room ON qlora.journal").await;
    let entries = store.apply(batch()).await.expect("a write");
    assert_eq!(entries[0].seq, 1, "no number is left out");
    assert_eq!(jobs(&store).await, [1]);
}

#[tokio::test]
async fn a_backup_is_restored_with_everything_and_is_the_same_coordinator() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = lead(&url, Bounds::default()).await;
    let logs = Write::Logs {
        job: JobId(1),
        lines: vec![line("a\0b")],
    };
    store.apply(save(1)).await.expect("a write");
    store.apply(vec![logs]).await.expect("a write");
    let host = server.socket();
    let (socket, user) = (["-h", host.as_str()], ["-U", "qlora"]);
    let dump = ["-Fc", "-f", "run/backup", "jobs"];
    server.run("pg_dump", &[&socket[..], &user, &dump].concat());
    store.apply(save(2)).await.expect("a write after it");
    let again = server.database("again");
    let restore = ["-d", "again", "run/backup"];
    server.run("pg_restore", &[&socket[..], &user, &restore].concat());
    let restored = lead(&again, Bounds::default()).await;
    assert_eq!(jobs(&restored).await, [1]);
    let (old, new) = (store.load().await, restored.load().await);
    assert_eq!(
        old.expect("jobs").coordinator_id,
        new.expect("jobs").coordinator_id
    );
    let lines = restored.logs(JobId(1), 0, 10).await.expect("logs");
    // A text of PostgreSQL holds no NUL.
    assert_eq!(lines[0].text, "a\u{2400}b");
    restored.apply(save(2)).await.expect("a write");
}

/// A text of PostgreSQL holds no NUL. SQLite keeps it, so that this is not of the conformance suite.
#[tokio::test]
async fn a_nul_in_a_name_a_role_or_a_kind_is_stored_as_its_symbol() {
    let server = Postgres::start();
    let store = lead(&server.database("jobs"), Bounds::default()).await;
    let token = TokenRecord {
        id: 1,
        name: "a\0b".into(),
        role: "c\0d".into(),
        hash: "h".into(),
        created_unix_ms: 1,
        expires_unix_ms: None,
        revoked_unix_ms: None,
        used_day: None,
    };
    let writes = vec![
        Write::AddToken(Box::new(token)),
        Write::Journal(entry("e\0f")),
    ];
    store.apply(writes).await.expect("writes");
    let tokens = store.tokens().await.expect("tokens");
    let texts = [tokens[0].name.as_str(), &tokens[0].role];
    assert_eq!(texts, ["a\u{2400}b", "c\u{2400}d"]);
    let journal = store.journal(0, 10).await.expect("the journal");
    assert_eq!(journal[0].kind, "e\u{2400}f");

    let name = "g\0h";
    let missing = store.config(name, 0).await;
    assert!(matches!(missing, Err(StoreError::NoConfig { .. })));
    for (yaml, revision) in [("one", 1), ("two", 2), ("two", 2)] {
        let made = store.put_config(name, yaml, yaml, 1, None).await;
        let made = made.expect("a revision");
        assert_eq!(
            (made.name.as_str(), made.revision),
            ("g\u{2400}h", revision)
        );
        assert_eq!(store.config(name, 0).await.expect("a config"), made);
    }
    assert_eq!(store.configs(Some(name)).await.expect("configs").len(), 2);
}

#[tokio::test]
async fn a_newer_schema_and_a_missing_database_are_refused_by_name() {
    let server = Postgres::start();
    let url = server.database("jobs");
    drop(lead(&url, Bounds::default()).await);
    execute(&url, "UPDATE qlora.version SET number = 99").await;
    // The session of before may hold the lock for a moment.
    let mut candidate = Candidate::new(database(&url));
    let asking = async {
        loop {
            match candidate.ask("a:1").await {
                Ok(Campaign::Stands { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Ok(_) => panic!("a newer schema is taken"),
                Err(fault) => return fault,
            }
        }
    };
    let fault = timeout(LIMIT, asking).await.expect("a refusal");
    assert!(
        matches!(fault, StoreError::Newer { found: 99, .. }),
        "{fault}"
    );
    let answer = Candidate::new(database(&server.url("nowhere")))
        .ask("a:1")
        .await;
    let Err(fault) = answer else {
        panic!("a database that is not there is waited for")
    };
    assert!(fault.to_string().contains("nowhere"), "{fault}");
}
