//! One suite for every job store.

mod common;
#[allow(dead_code)]
#[path = "../../../tests/src/postgres.rs"]
mod postgres;

use std::collections::BTreeMap;
use std::task::Poll;

use common::{entry, holder, job, line, point};
use postgres::Postgres;
use qlora_engine::{
    AfterStop, Artifact, ArtifactKind, CallScores, Drain, Ended, File, FileRole, Job, JobId,
    JobState, Millis, Needs, Progress, Scores, Stop, Token,
};
use qlora_store::*;

async fn conforms(store: impl JobStore) {
    let (first, mut second) = (job(1), job(2));
    let writes = vec![
        Write::SaveJob(Box::new(first.clone())),
        Write::SaveJob(Box::new(second.clone())),
        Write::Metrics {
            job: JobId(1),
            points: vec![point(1), point(2)],
        },
        Write::Metrics {
            job: JobId(1),
            points: vec![point(3)],
        },
        Write::Logs {
            job: JobId(1),
            lines: vec![line("a"), line("b")],
        },
        Write::Journal(entry("x")),
        Write::Journal(entry("y")),
    ];
    let entries = store.apply(writes).await.expect("writes");
    assert_eq!(
        entries
            .iter()
            .map(|e| (e.seq, e.kind.as_str()))
            .collect::<Vec<_>>(),
        [(1, "x"), (2, "y")]
    );
    second.state = JobState::Succeeded { at: Millis(9) };
    store
        .apply(vec![Write::SaveJob(Box::new(second.clone()))])
        .await
        .expect("a write");
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs, std::slice::from_ref(&first));
    assert_eq!(stored.ended, [Ended::of(&second).expect("it has ended")]);
    for job in [first, second] {
        assert_eq!(store.job(job.id).await.expect("a look"), Some(job));
    }
    assert_eq!(store.job(JobId(99)).await.expect("a look"), None);
    assert_eq!(
        (&stored.unreadable, stored.reserved.job),
        (&vec![], JobId(2))
    );

    let steps =
        |points: Vec<MetricRecord>| points.iter().map(|p| (p.seq, p.step)).collect::<Vec<_>>();
    assert_eq!(
        steps(store.metrics(JobId(1), 0, 10).await.expect("metrics")),
        [(1, 1), (2, 2), (3, 3)]
    );
    assert_eq!(
        steps(store.metrics(JobId(1), 1, 1).await.expect("metrics")),
        [(2, 2)]
    );
    assert_eq!(
        store.metrics(JobId(1), 0, 1).await.expect("metrics")[0].values,
        point(1).values
    );
    assert!(
        store
            .metrics(JobId(2), 0, 10)
            .await
            .expect("metrics")
            .is_empty()
    );
    let lines = store.logs(JobId(1), 1, 10).await.expect("logs");
    assert_eq!(
        lines,
        [LogRecord {
            seq: 2,
            ..line("b")
        }]
    );
    store
        .apply(vec![Write::Logs {
            job: JobId(1),
            lines: vec![line("c")],
        }])
        .await
        .expect("a write");
    let last = |limit| store.last_logs(JobId(1), limit);
    let texts = |lines: Vec<LogRecord>| {
        lines
            .into_iter()
            .map(|l| (l.seq, l.text))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        texts(last(2).await.expect("logs")),
        [(2, "b".into()), (3, "c".into())]
    );
    assert_eq!(
        texts(last(9).await.expect("logs")),
        texts(store.logs(JobId(1), 0, 9).await.expect("logs"))
    );
    assert!(store.last_logs(JobId(9), 2).await.expect("logs").is_empty());
    assert_eq!(
        store.journal(1, 10).await.expect("journal"),
        [JournalEntry {
            seq: 2,
            ..entry("y")
        }]
    );

    let put = |text: &'static str| store.put_config("c", text, text, 1, None);
    assert_eq!(put("one").await.expect("a revision").revision, 1);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(put("two").await.expect("a revision").revision, 2);
    assert_eq!(store.config("c", 0).await.expect("a config").yaml, "two");
    assert_eq!(store.config("c", 1).await.expect("a config").yaml, "one");
    assert!(matches!(
        store.config("c", 3).await,
        Err(StoreError::NoConfig { .. })
    ));
    store
        .put_config("d", "x", "x", 1, None)
        .await
        .expect("a revision");
    let names = |all: Vec<ConfigRevision>| {
        all.into_iter()
            .map(|c| (c.name, c.revision))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(store.configs(None).await.expect("configs")),
        [("c".into(), 2), ("d".into(), 1)]
    );
    assert_eq!(
        names(store.configs(Some("c")).await.expect("configs")),
        [("c".into(), 1), ("c".into(), 2)]
    );

    let ids = [
        stored.coordinator_id,
        store.load().await.expect("jobs").coordinator_id,
    ];
    assert_eq!(ids[0], ids[1], "the coordinator became another one");
    assert!(is_identity(&ids[0]), "{}", ids[0]);

    // Nothing lies behind the last position that there can be.
    assert!(
        store
            .metrics(JobId(1), u64::MAX, 10)
            .await
            .expect("metrics")
            .is_empty()
    );
    assert!(
        store
            .logs(JobId(1), u64::MAX, 10)
            .await
            .expect("logs")
            .is_empty()
    );
    assert!(
        store
            .journal(u64::MAX, 10)
            .await
            .expect("journal")
            .is_empty()
    );
    assert!(matches!(
        store.config("c", u64::MAX).await,
        Err(StoreError::NoConfig { .. })
    ));
    keeps_numbers(&store).await;
}

fn is_identity(text: &str) -> bool {
    text.len() == 32
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

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

/// A job all of whose measured values are `v`.
fn measuring(id: u64, v: f64) -> Job {
    let calls = CallScores {
        rows: u64::MAX,
        valid_json: v,
        schema_valid: v,
        names_match: v,
        exact_match: v,
    };
    let scores = Scores {
        rows: 1,
        tokens: u64::MAX,
        loss: v,
        perplexity: v,
        calls: Some(calls),
    };
    let progress = Progress {
        step: u64::MAX,
        loss: Some(v),
        learning_rate: Some(v),
        tokens_per_second: Some(v),
        first_evaluation: Some(v),
        last_evaluation: Some(v),
        seconds_left: Some(v),
        scores: Some(scores),
        ..Progress::default()
    };
    let mut made = job(id);
    made.spec.needs = Needs {
        memory_fraction: Some(v),
        ..Needs::default()
    };
    Job { progress, ..made }
}

async fn keeps_numbers(store: &impl JobStore) {
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

#[tokio::test]
async fn memory_conforms() {
    conforms(MemoryStore::default()).await;
}

#[tokio::test]
async fn sqlite_conforms() {
    let folder = tempfile::tempdir().expect("a folder");
    conforms(SqliteStore::open(folder.path()).await.expect("a store")).await;
}

/// All of the suite, each part in a database of its own.
#[tokio::test]
async fn postgres_conforms() {
    let server = Postgres::start();
    let store = async |name: &str| common::lead(&server.database(name), Bounds::default()).await;
    conforms(store("conforms").await).await;
    removes(store("removes").await).await;
    trims(common::lead(&server.database("trims"), BOUNDS).await).await;
    let sized = store("records").await;
    assert!(sized.disk_bytes() > 0);
    forgets_records(sized).await;
    cuts_off(store("cuts").await).await;
    lists(&store("lists").await).await;
    keeps_drains(&store("drains").await).await;
    keeps_tokens(&store("tokens").await).await;
}

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

#[tokio::test]
async fn a_write_that_nobody_waits_for_any_more_leaves_no_doubt_about_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    cuts_off(SqliteStore::open(folder.path()).await.expect("a store")).await;
}

/// Whoever waits for a write may go away at any point of it: the next one does not suffer.
async fn cuts_off(store: impl JobStore) {
    let (mut cut, mut made) = (0, 0);
    for polls in 0..400 {
        let yaml = format!("revision {polls}");
        let mut put = Box::pin(store.put_config("c", &yaml, &yaml, 1, None));
        let mut left = polls;
        // Dropped after so many polls, or done before.
        let ended = std::future::poll_fn(|context| {
            left -= i32::from(left > 0);
            match put.as_mut().poll(context) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        let ended = ended.await;
        drop(put);
        match ended {
            Some(done) => {
                drop(done.expect("a revision"));
                made += 1;
            }
            None => cut += 1,
        }
        store
            .apply(vec![Write::Journal(entry("next"))])
            .await
            .expect("the next write");
        if polls > 20 && cut < polls - 20 {
            break;
        }
    }
    assert!(cut > 3, "only {cut} writes were cut off");
    let kept = store.configs(Some("c")).await.expect("revisions").len();
    assert!(kept >= made, "{made} revisions were made, {kept} are kept");
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
    running.attempts.push(qlora_engine::Attempt::new(
        Token(41),
        holder("w"),
        Vec::new(),
        Millis(1),
    ));
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

/// Jobs that were recorded by other versions have these words.
#[test]
fn a_recorded_job_has_its_roles_and_kinds_as_words() {
    let mut job = common::job(1);
    let file = job.spec.files[0].clone();
    job.spec.files = [FileRole::Train, FileRole::Eval, FileRole::Adapter]
        .map(|role| File {
            role,
            ..file.clone()
        })
        .to_vec();
    job.artifacts = [ArtifactKind::Checkpoint, ArtifactKind::Adapter]
        .map(|kind| Artifact {
            kind,
            name: "a".into(),
            digest: "d".into(),
            size: 1,
            step: 2,
        })
        .to_vec();
    let json = serde_json::to_value(&job).expect("JSON");
    let words = |list: &serde_json::Value, key: &str| -> Vec<String> {
        let list = list.as_array().expect("a list").iter();
        list.map(|one| one[key].as_str().expect("a word").to_owned())
            .collect()
    };
    assert_eq!(
        words(&json["spec"]["files"], "role"),
        ["train", "eval", "adapter"]
    );
    assert_eq!(words(&json["artifacts"], "kind"), ["checkpoint", "adapter"]);
    assert_eq!(serde_json::from_value::<Job>(json).expect("a job"), job);
}

#[test]
fn a_stop_that_was_stored_before_jobs_could_be_paused_is_a_cancel() {
    let old = r#"{"Running": {"token": 4294967297, "worker": "a", "stopping": "by user"}}"#;
    let state: JobState = serde_json::from_str(old).expect("a state");
    let JobState::Running {
        stopping: Some(stop),
        ..
    } = state
    else {
        panic!("{state:?}");
    };
    assert_eq!(
        (stop.reason.as_str(), stop.then),
        ("by user", AfterStop::Cancelled)
    );
    let text = serde_json::to_string(&stop).expect("text");
    assert_eq!(serde_json::from_str::<Stop>(&text).expect("a stop"), stop);
}

fn drain(since: u64, reason: &str) -> Drain {
    Drain {
        since: Millis(since),
        reason: reason.into(),
    }
}

async fn keeps_drains(store: &impl JobStore) {
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

#[tokio::test]
async fn drained_workers_are_kept_by_name_until_they_are_undrained() {
    keeps_drains(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    keeps_drains(&store).await;
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    let drains = again.load().await.expect("drains").drains;
    assert_eq!(drains.into_keys().collect::<Vec<_>>(), ["a"]);
}

async fn removes(store: impl JobStore) {
    for id in [1, 2] {
        let writes = vec![
            Write::SaveJob(Box::new(job(id))),
            Write::Metrics {
                job: JobId(id),
                points: vec![point(1)],
            },
            Write::Logs {
                job: JobId(id),
                lines: vec![line("a")],
            },
            Write::Journal(entry("x")),
        ];
        store.apply(writes).await.expect("writes");
    }
    let gone = JobId(2);
    store
        .apply(vec![Write::RemoveJob(gone)])
        .await
        .expect("a write");
    let stored = store.load().await.expect("jobs");
    assert_eq!(stored.jobs, [job(1)]);
    assert_eq!(stored.reserved.job, gone, "its number is not given again");
    let points = store.metrics(gone, 0, 10).await.expect("metrics");
    let lines = store.logs(gone, 0, 10).await.expect("logs");
    assert!(points.is_empty() && lines.is_empty());
    assert_eq!(
        store.metrics(JobId(1), 0, 10).await.expect("metrics").len(),
        1
    );
    assert_eq!(
        store.journal(0, 10).await.expect("the journal").len(),
        2,
        "the journal stays"
    );
}

#[tokio::test]
async fn a_removed_job_leaves_its_number_and_the_journal() {
    removes(MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    removes(SqliteStore::open(folder.path()).await.expect("a store")).await;
}

/// Small ones, so that a few hundred additions pass them.
const BOUNDS: Bounds = Bounds {
    log_lines: 200,
    points: 20,
    stretches: 4,
    entries: 300,
};

async fn trims(store: impl JobStore) {
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

fn wanted(states: &[&'static str], before: u64, limit: u32) -> Wanted {
    Wanted {
        states: (!states.is_empty()).then(|| states.to_vec()),
        before: JobId(before),
        limit,
    }
}

/// Jobs 1 to 9: of each three the first waits, the second has failed and the third was cancelled.
async fn lists(store: &impl JobStore) {
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
    let asked = async |wanted: Wanted| {
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
    let nothing = Wanted {
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

async fn forgets_records(store: impl JobStore) {
    let records = |id| {
        vec![
            Write::SaveJob(Box::new(job(id))),
            Write::Metrics {
                job: JobId(id),
                points: vec![point(1)],
            },
            Write::Logs {
                job: JobId(id),
                lines: vec![line("aé")],
            },
        ]
    };
    for id in [1, 2] {
        store.apply(records(id)).await.expect("writes");
    }
    let bytes = |id| store.record_bytes(JobId(id));
    // The line has 3 bytes, and the point some.
    assert!(bytes(1).await.expect("bytes") > 3);
    assert_eq!(bytes(9).await.expect("bytes"), 0);
    let gone = vec![Write::RemoveRecords(JobId(1))];
    store.apply(gone).await.expect("a write");
    assert_eq!(bytes(1).await.expect("bytes"), 0);
    assert!(bytes(2).await.expect("bytes") > 3);
    assert_eq!(store.load().await.expect("jobs").jobs, [job(1), job(2)]);
}

#[tokio::test]
async fn the_records_of_a_job_go_without_it() {
    forgets_records(MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    assert!(store.disk_bytes() > 0);
    forgets_records(store).await;
}

fn token(id: u64, name: &str) -> TokenRecord {
    TokenRecord {
        id,
        name: name.into(),
        role: "viewer".into(),
        hash: "h".into(),
        page_hash: "p".into(),
        created_unix_ms: 3,
        expires_unix_ms: Some(9),
        revoked_unix_ms: None,
        used_day: None,
    }
}

/// Tokens are kept, ended once, and used on the latest day that was told; a change says whose it is.
async fn keeps_tokens(store: &impl JobStore) {
    let by = By {
        who: "ci".into(),
        from: "10.0.0.5:1".into(),
        act: "token create".into(),
    };
    let told = JournalEntry {
        by: Some(by.clone()),
        ..entry("created")
    };
    let endless = TokenRecord {
        expires_unix_ms: None,
        ..token(2, "")
    };
    let writes = vec![
        Write::AddToken(Box::new(token(1, "ci"))),
        Write::AddToken(Box::new(endless.clone())),
        Write::Journal(told.clone()),
    ];
    store.apply(writes).await.expect("writes");
    assert_eq!(
        store.tokens().await.expect("tokens"),
        [token(1, "ci"), endless.clone()]
    );
    let writes = vec![
        Write::RevokeToken { id: 1, unix_ms: 7 },
        Write::RevokeToken { id: 1, unix_ms: 8 },
        Write::TokenUsed { id: 2, day: 20 },
        Write::TokenUsed { id: 2, day: 19 },
        // One that is not there is nobody's.
        Write::RevokeToken { id: 9, unix_ms: 7 },
        Write::TokenUsed { id: 9, day: 1 },
    ];
    store.apply(writes).await.expect("writes");
    let revoked = TokenRecord {
        revoked_unix_ms: Some(7),
        ..token(1, "ci")
    };
    let used = TokenRecord {
        used_day: Some(20),
        ..endless
    };
    assert_eq!(store.tokens().await.expect("tokens"), [revoked, used]);

    let put = |text: &'static str| store.put_config("c", text, text, 4, Some(by.clone()));
    for text in ["one", "two", "two"] {
        put(text).await.expect("a revision");
    }
    let told_of = store.journal(0, 10).await.expect("the journal");
    let texts: Vec<_> = told_of.iter().map(|e| e.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "",
            "configuration c revision 1",
            "configuration c revision 2"
        ],
        "the same text is no change"
    );
    assert_eq!(told_of[0], JournalEntry { seq: 1, ..told });
    assert!(told_of.iter().all(|e| e.by.as_ref() == Some(&by)));
}

#[tokio::test]
async fn tokens_and_who_asked_for_a_change_are_kept() {
    keeps_tokens(&MemoryStore::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let store = SqliteStore::open(folder.path()).await.expect("a store");
    keeps_tokens(&store).await;
    drop(store);
    let again = SqliteStore::open(folder.path()).await.expect("a store");
    let kept = again.tokens().await.expect("tokens");
    assert_eq!(
        kept.iter().map(|t| t.revoked_unix_ms).collect::<Vec<_>>(),
        [Some(7), None],
        "a revoked token came back"
    );
}
