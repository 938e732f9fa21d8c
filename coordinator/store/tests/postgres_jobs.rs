//! Jobs in a PostgreSQL database: those of an earlier version, ended ones that are damaged, many that are
//! written at once, and whether any has artifacts.
//! Tests with a real server; what every store keeps is in the conformance suite.

mod common;
#[allow(dead_code)]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;

use std::time::Duration;

use common::{LIMIT, database, entry, job, lead, leads, line, point};
use postgres::Postgres;
use qlora_engine::{Artifact, ArtifactKind, Ended, Job, JobId, JobState, Millis};
use qlora_store::{
    Bounds, Campaign, Candidate, JobQuery, JobStore, Owner, PostgresStore, StoreError, Write,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::timeout;

async fn session(url: &str) -> PgConnection {
    PgConnection::connect(url).await.expect("a session")
}

async fn execute(session: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(session)
        .await
        .expect(sql);
}

fn succeeded(id: u64) -> Job {
    let mut job = job(id);
    job.spec.idempotency_key = (id == 2).then(|| "a key".to_owned());
    job.state = JobState::Succeeded { at: Millis(id) };
    job
}

/// More than are filled in with one transaction.
const JOBS: u64 = 1200;
/// Jobs that have not ended, at both ends, and one that cannot be read.
const LIVE: [u64; 2] = [1, JOBS];
const UNREADABLE: u64 = 600;

fn is_ended(id: &u64) -> bool {
    !LIVE.contains(id) && *id != UNREADABLE
}

/// A database as a coordinator of the first schema left it.
async fn of_the_first_schema(url: &str) {
    let mut session = session(url).await;
    let start = include_str!("../migrations/postgres/0001_start.sql");
    let version =
        "CREATE TABLE version (one INTEGER PRIMARY KEY CHECK (one = 1), number BIGINT NOT NULL);
        INSERT INTO version (one, number) VALUES (1, 1);";
    let schema = "CREATE SCHEMA qlora; SET search_path = qlora;";
    execute(&mut session, &format!("{schema} {version} {start}")).await;
    let (mut ids, mut specs, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for id in 1..=JOBS {
        let job = if LIVE.contains(&id) {
            job(id)
        } else {
            succeeded(id)
        };
        ids.push(id as i64);
        specs.push(serde_json::to_string(&job.spec).expect("JSON"));
        let body = serde_json::to_string(&job).expect("JSON");
        bodies.push(if id == UNREADABLE { "{".into() } else { body });
    }
    sqlx::query("INSERT INTO jobs (id, spec, body) SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[])")
        .bind(ids)
        .bind(specs)
        .bind(bodies)
        .execute(&mut session)
        .await
        .expect("jobs");
}

/// What a database of the first schema holds is all there, and listed.
async fn holds_all(store: &PostgresStore) {
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs, LIVE.map(job));
    let mut found = stored.ended;
    found.sort_by_key(|ended| ended.id);
    let ended = (1..=JOBS).filter(is_ended);
    let known: Vec<Ended> = ended.filter_map(|id| Ended::of(&succeeded(id))).collect();
    assert_eq!(found, known);
    let aside: Vec<JobId> = stored.unreadable.iter().map(|u| u.job).collect();
    assert_eq!(aside, [JobId(UNREADABLE)]);
    let wanted = JobQuery {
        states: Some(vec!["succeeded"]),
        before: JobId(UNREADABLE + 2),
        limit: 2,
    };
    let page = store.jobs(&wanted).await.expect("a page");
    let neighbors = [UNREADABLE + 1, UNREADABLE - 1];
    assert_eq!(page.jobs, neighbors.map(succeeded));
    assert_eq!(page.next, Some(JobId(UNREADABLE - 1)));
}

#[tokio::test]
async fn a_database_of_the_schema_before_is_taken_over_and_its_ended_jobs_are_filled_in() {
    let server = Postgres::start();
    let url = server.database("jobs");
    of_the_first_schema(&url).await;
    let store = lead(&url, Bounds::default()).await;
    holds_all(&store).await;
    let mut session = session(&url).await;
    let counted = "SELECT COUNT(*) FROM qlora.ended";
    let briefs: i64 = sqlx::query_scalar(counted)
        .fetch_one(&mut session)
        .await
        .expect("a count");
    assert_eq!(briefs as usize, (1..=JOBS).filter(is_ended).count());
    let again = vec![Write::SaveJob(Box::new(succeeded(LIVE[0])))];
    store.apply(again).await.expect("a write");
    let wanted = JobQuery {
        states: Some(vec!["queued"]),
        before: JobId(u64::MAX),
        limit: 9,
    };
    let page = store.jobs(&wanted);
    assert_eq!(page.await.expect("a page").jobs, [job(LIVE[1])]);
}

/// The first leader of the new version died while it filled in; the next one goes on.
#[tokio::test]
async fn filling_in_that_was_cut_off_is_gone_on_with() {
    let server = Postgres::start();
    let url = server.database("jobs");
    of_the_first_schema(&url).await;
    let mut session = session(&url).await;
    // The disk is full at the second page.
    let full = "
CREATE FUNCTION qlora.full() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER no_room BEFORE UPDATE ON qlora.jobs FOR EACH ROW WHEN (OLD.id = 1100) EXECUTE FUNCTION qlora.full()";
    execute(&mut session, full).await;
    let mut candidate = Candidate::new(database(&url));
    let answer = candidate.ask("a:1").await.expect("an answer");
    let Campaign::Away(fault) = answer else {
        panic!("it leads with a part of the jobs")
    };
    assert!(matches!(fault, StoreError::ServerFull { .. }), "{fault}");
    execute(&mut session, "DROP TRIGGER no_room ON qlora.jobs").await;
    let store = leads(&mut candidate, "a:1").await;
    holds_all(&store).await;
}

/// What a start reads of ended jobs is damaged: of the first one its brief, of the second the job.
#[tokio::test]
async fn an_ended_job_is_known_by_its_brief_or_by_itself() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = lead(&url, Bounds::default()).await;
    let writes = [2, 3].map(|id| Write::SaveJob(Box::new(succeeded(id))));
    store.apply(writes.to_vec()).await.expect("a write");
    let mut session = session(&url).await;
    let damage = "UPDATE qlora.ended SET brief = '{' WHERE job = 2;
        UPDATE qlora.jobs SET body = '' WHERE id = 3";
    execute(&mut session, damage).await;
    let stored = store.load().await.expect("jobs");
    assert!(stored.unreadable.is_empty(), "{:?}", stored.unreadable);
    let known = [2, 3].map(|id| Ended::of(&succeeded(id)).expect("it has ended"));
    assert_eq!(stored.ended, known);
    let found = store.job(JobId(2)).await.expect("a job");
    assert_eq!(found, Some(succeeded(2)));
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
    assert_eq!(page.jobs, [succeeded(2)]);

    // Both are damaged: the job is set aside.
    execute(&mut session, "UPDATE qlora.ended SET brief = '{'").await;
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.ended, known[..1]);
    let aside: Vec<JobId> = stored.unreadable.iter().map(|u| u.job).collect();
    assert_eq!(aside, [JobId(3)]);
}

/// Waits for the end of all other sessions, which tells the server what they did, and counts the
/// scans of all jobs and of their index.
async fn scans(session: &mut PgConnection) -> (i64, i64) {
    let others = "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended = async {
        loop {
            let count: i64 = sqlx::query_scalar(others)
                .fetch_one(&mut *session)
                .await
                .expect("activity");
            if count == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, ended).await.expect("an end of all sessions");
    sqlx::query_as(
        "SELECT t.seq_scan, i.idx_scan FROM pg_stat_user_tables t JOIN pg_stat_user_indexes i USING (relid)
         WHERE t.relname = 'jobs' AND i.indexrelname = 'jobs_by_state'",
    )
    .fetch_one(session)
    .await
    .expect("counts")
}

/// A list and a start take the same time however many ended jobs there are: no row is passed over.
#[tokio::test]
async fn lists_and_a_start_look_jobs_up_by_their_state_and_number() {
    let server = Postgres::start();
    let url = server.database("jobs");
    of_the_first_schema(&url).await;
    drop(lead(&url, Bounds::default()).await);
    let mut session = session(&url).await;
    execute(&mut session, "ANALYZE qlora.jobs").await;
    let (all, of_index) = scans(&mut session).await;
    let store = leads(&mut Candidate::new(database(&url)), "a:1").await;
    holds_all(&store).await;
    let wanted = JobQuery {
        states: None,
        before: JobId(9),
        limit: 3,
    };
    let page = store.jobs(&wanted).await.expect("a page");
    assert_eq!(page.jobs, [8, 7, 6].map(succeeded));
    drop(store);
    let (all_after, of_index_after) = scans(&mut session).await;
    assert_eq!(all_after, all, "all jobs were read");
    assert!(of_index_after > of_index, "{of_index_after}");
}

/// One after the other: a job without artifacts whose texts look like some, an ended one that has made
/// one, and one that was given a file.
#[tokio::test]
async fn who_waits_to_lead_learns_whether_any_job_has_an_artifact() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let leader = lead(&url, Bounds::default()).await;
    let mut candidate = Candidate::new(database(&url));
    let answer = candidate.ask("b:1").await.expect("an answer");
    assert!(matches!(answer, Campaign::Stands { .. }), "two lead");
    let mut poor = job(1);
    poor.spec.files.clear();
    poor.spec.name = r#""files":[{}],"artifacts":[{}]"#.into();
    poor.spec.config_json = serde_json::json!({"files": [{}]}).to_string();
    let mut made = poor.clone();
    made.state = JobState::Succeeded { at: Millis(9) };
    made.artifacts.push(Artifact {
        kind: ArtifactKind::Adapter,
        name: "adapter".into(),
        step: 1,
        digest: "d".into(),
        size: 3,
    });
    let given = vec![(poor, false), (made, true), (job(1), true)];
    for (job, has_artifacts) in given {
        leader
            .apply(vec![Write::RemoveJob(job.id)])
            .await
            .expect("a write");
        leader
            .apply(vec![Write::SaveJob(Box::new(job))])
            .await
            .expect("a write");
        let stored = leader.load().await.expect("jobs");
        assert_eq!(
            stored.owner(),
            Owner::new(stored.coordinator_id.clone(), has_artifacts)
        );
        assert_eq!(candidate.owner().await, Some(stored.owner()));
    }
}

/// Counts the statements that add rows.
const COUNTS: &str = "
CREATE TABLE qlora.statements (of TEXT);
CREATE FUNCTION qlora.counted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO qlora.statements VALUES (TG_TABLE_NAME); RETURN NULL; END $$;
CREATE TRIGGER counted AFTER INSERT ON qlora.jobs FOR EACH STATEMENT EXECUTE FUNCTION qlora.counted();
CREATE TRIGGER counted AFTER INSERT ON qlora.metrics FOR EACH STATEMENT EXECUTE FUNCTION qlora.counted();
CREATE TRIGGER counted AFTER INSERT ON qlora.logs FOR EACH STATEMENT EXECUTE FUNCTION qlora.counted();
CREATE TRIGGER counted AFTER INSERT ON qlora.journal FOR EACH STATEMENT EXECUTE FUNCTION qlora.counted()";

#[tokio::test]
async fn a_batch_takes_one_statement_for_each_kind_of_row() {
    let server = Postgres::start();
    let url = server.database("jobs");
    let store = lead(&url, Bounds::default()).await;
    let mut session = session(&url).await;
    execute(&mut session, COUNTS).await;
    let writes = (1..=100).flat_map(|id| {
        let (points, lines) = (vec![point(id)], vec![line("a")]);
        let saved = Write::SaveJob(Box::new(job(id)));
        let job = JobId(id);
        [
            saved,
            Write::Metrics { job, points },
            Write::Logs { job, lines },
            Write::Journal(entry("a")),
        ]
    });
    store.apply(writes.collect()).await.expect("a write");
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs.len(), 100);
    let counted =
        sqlx::query_as("SELECT of, COUNT(*) FROM qlora.statements GROUP BY of ORDER BY of");
    let counted: Vec<(String, i64)> = counted.fetch_all(&mut session).await.expect("counts");
    let once = ["jobs", "journal", "logs", "metrics"].map(|of| (of.to_owned(), 1));
    assert_eq!(counted, once);
}
