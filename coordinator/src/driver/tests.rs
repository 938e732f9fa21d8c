//! The driver over a store that fails when it is told to.

mod ended;
mod events;
mod failing;
mod releases;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use qlora_engine::{JobState, Token, Wanted};
use qlora_store::{MetricRecord, SqliteStore};

use self::events::{checkpoint, finish, register, report, submit, sync};
use self::failing::{Failing, failing};
use super::*;

struct NoArtifacts;

impl Artifacts for NoArtifacts {
    fn make_room(&self) {}

    fn release(&self, _: &str) {}
}

async fn start(store: &Arc<Failing>) -> Handle {
    Driver::start(store.clone(), Limits::default(), NoArtifacts)
        .await
        .expect("a start")
}

async fn registered(driver: &Handle, name: &str) -> SessionId {
    match driver.event(register(name)).await {
        Ok(Response::Registered { session }) => session,
        other => panic!("{:?}", other.err()),
    }
}

async fn started(driver: &Handle, session: SessionId) -> Token {
    match driver.event(sync(session, None)).await {
        Ok(Response::Wanted(Wanted::Run { token, .. })) => token,
        other => panic!("{:?}", other.map_err(|e| e.to_string())),
    }
}

async fn submitted(driver: &Handle, name: &str) -> JobId {
    match driver.event(submit(name, None)).await {
        Ok(Response::Submitted { job, .. }) => job,
        other => panic!("{:?}", other.map_err(|e| e.to_string())),
    }
}

async fn names(driver: &Handle) -> Vec<String> {
    driver
        .read(|engine| engine.jobs().map(|job| job.spec.name.clone()).collect())
        .await
        .expect("names")
}

fn refused<T: std::fmt::Debug>(answer: Result<T, CallError>, what: &str) {
    assert!(
        matches!(answer, Err(CallError::NotDurable(_))),
        "{what}: {:?}",
        answer.map_err(|e| e.to_string())
    );
}

#[tokio::test]
async fn while_nothing_can_be_stored_nothing_is_acknowledged_and_no_session_is_lost() {
    let store = failing();
    let driver = start(&store).await;
    let a = registered(&driver, "a").await;
    let first = submitted(&driver, "first").await;
    let token = started(&driver, a).await;
    store.faults.fail(0, u64::MAX / 2);
    for round in 0..3 {
        refused(
            driver.event(submit("full", Some("k"))).await,
            "a submission",
        );
        refused(driver.event(report(a, token, 1)).await, "a report");
        refused(driver.event(checkpoint(a, token, 1)).await, "a checkpoint");
        refused(
            driver
                .event(Event::Cancel {
                    job: first,
                    reason: "r".into(),
                })
                .await,
            "a cancellation",
        );
        refused(driver.event(finish(a, token)).await, "an end");
        let goes_on = driver.event(sync(a, Some(token))).await;
        assert!(
            matches!(goes_on, Ok(Response::Wanted(Wanted::GoOn))),
            "round {round}: {:?}",
            goes_on.err()
        );
    }
    // Workers come and wait; what they would be given has to be stored first.
    let b = registered(&driver, "b").await;
    let idle = driver.event(sync(b, None)).await;
    assert!(
        matches!(idle, Ok(Response::Wanted(Wanted::Nothing))),
        "{:?}",
        idle.err()
    );
    assert_eq!(names(&driver).await, ["first"]);

    store.faults.fail(0, 0);
    let second = submitted(&driver, "second").await;
    assert_eq!(second, JobId(2), "a number was used up by what was refused");
    assert!(matches!(
        driver.event(submit("third", Some("k"))).await,
        Ok(Response::Submitted { created: true, .. })
    ));
    assert!(started(&driver, b).await > token);
    for event in [
        report(a, token, 1),
        checkpoint(a, token, 1),
        finish(a, token),
    ] {
        driver
            .event(event)
            .await
            .expect("what is stored is acknowledged");
    }
    let stored = store.load().await.expect("jobs").jobs;
    let live: Vec<Job> = driver
        .read(|engine| engine.jobs().cloned().collect())
        .await
        .expect("jobs");
    // NaN is not equal to itself.
    assert_eq!(format!("{stored:?}"), format!("{live:?}"));
    let ended = store.job(first).await.expect("a job").expect("the first");
    assert!(matches!(ended.state, JobState::Succeeded { .. }));
    assert_eq!(ended.attempts.len(), 1);
    // The journal tells later of the worker that came meanwhile.
    let journal = store.journal(0, 100).await.expect("a journal");
    assert!(
        journal
            .iter()
            .any(|e| e.kind == "registered" && e.worker.as_deref() == Some("b")),
        "{journal:?}"
    );
}

/// `name` comes back without its attempt, and presents the session that it was given last.
fn restarted(name: &str, last: SessionId) -> Event {
    let Event::Register {
        name,
        instance,
        platform,
        running,
        ..
    } = register(name)
    else {
        unreachable!("it is a registration")
    };
    Event::Register {
        name,
        instance,
        previous: Some(last),
        platform,
        running,
    }
}

/// A worker that is told that somebody else has its identity ends for good.
#[tokio::test]
async fn a_worker_that_was_restarted_while_nothing_can_be_stored_is_asked_to_come_again() {
    for too_late in [false, true] {
        let store = failing();
        let driver = start(&store).await;
        let a = registered(&driver, "a").await;
        let job = submitted(&driver, "x").await;
        started(&driver, a).await;
        *store.faults.too_late.lock().expect("a lock") = too_late;
        store.faults.fail(0, if too_late { 1 } else { 2 });
        let mut tries = 0;
        let session = loop {
            tries += 1;
            match driver.event(restarted("a", a)).await {
                Ok(Response::Registered { session }) => break session,
                Err(CallError::NotDurable(_) | CallError::Unsure(_)) if tries < 9 => {}
                other => panic!("{tries}: {:?}", other.map_err(|e| e.to_string())),
            }
        };
        let state = driver.read(move |engine| engine.job(job).map(|job| job.state.clone()));
        let state = state.await.expect("a look");
        assert!(
            matches!(state, Some(JobState::Queued { .. })),
            "{too_late}: {state:?}"
        );
        started(&driver, session).await;
    }
}

/// The life of a job; whoever is refused tries again, as clients do. Returns how many writes it
/// took.
async fn life(store: &Arc<Failing>) -> u64 {
    let driver = start(store).await;
    let again = async |event: &dyn Fn() -> (Event, Records)| {
        loop {
            let (event, records) = event();
            match driver.event_with(event, records).await {
                Err(CallError::NotDurable(_)) => {}
                other => return other.unwrap_or_else(|e| panic!("{e}")),
            }
        }
    };
    let Response::Registered { session } = again(&|| (register("a"), Records::default())).await
    else {
        panic!("no session")
    };
    let Response::Submitted { job, .. } =
        again(&|| (submit("x", Some("k")), Records::default())).await
    else {
        panic!("no job")
    };
    let run = again(&|| (sync(session, None), Records::default())).await;
    let Response::Wanted(Wanted::Run { token, .. }) = run else {
        panic!("{run:?}")
    };
    for batch in 1..=2 {
        let values = BTreeMap::from([("loss".to_owned(), 1.0)]);
        let point = MetricRecord {
            seq: 0,
            step: batch,
            unix_ms: 0,
            values,
        };
        again(&|| {
            let records = Records {
                points: vec![point.clone()],
                ..Records::default()
            };
            (report(session, token, batch), records)
        })
        .await;
    }
    again(&|| (checkpoint(session, token, 1), Records::default())).await;
    again(&|| (finish(session, token), Records::default())).await;

    let stored = store.load().await.expect("jobs");
    assert_eq!((stored.jobs.len(), stored.ended.len()), (0, 1));
    let job = store.job(job).await.expect("a job").expect("the job");
    assert!(matches!(job.state, JobState::Succeeded { .. }), "{job:?}");
    assert_eq!(
        (
            job.id,
            job.attempts.len(),
            job.artifacts.len(),
            job.progress.step
        ),
        (JobId(1), 1, 1, 2)
    );
    let steps: Vec<u64> = store
        .metrics(job.id, 0, 10)
        .await
        .expect("metrics")
        .iter()
        .map(|p| p.step)
        .collect();
    assert_eq!(steps, [1, 2], "a point was lost or stored twice");
    store.faults.applied.load(SeqCst)
}

#[tokio::test]
async fn a_life_in_which_each_write_fails_once_comes_to_the_same_end() {
    let writes = life(&failing()).await;
    assert!(writes >= 7, "{writes}");
    for n in 0..writes {
        let store = failing();
        store.faults.fail(n, 1);
        life(&store).await;
    }
}

#[tokio::test]
async fn nobody_sees_what_is_not_durable() {
    let store = failing();
    let driver = start(&store).await;
    submitted(&driver, "durable").await;
    let wait = |many| store.faults.gate.forget_permits(many);
    wait(usize::MAX);
    // While one write waits, a submission and a look at the jobs come into the next batch together.
    let (waiting, driver2, driver3) = (driver.clone(), driver.clone(), driver.clone());
    let waiting = tokio::spawn(async move { waiting.event(submit("waiting", None)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let unstored = tokio::spawn(async move { driver2.event(submit("unstored", None)).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let look = tokio::spawn(async move { names(&driver3).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    store.faults.fail(1, 1);
    store.faults.gate.add_permits(1000);
    assert!(waiting.await.expect("a task").is_ok());
    refused(unstored.await.expect("a task"), "a submission");
    assert_eq!(look.await.expect("a task"), ["durable", "waiting"]);
}

#[tokio::test]
async fn where_it_is_not_known_what_is_durable_it_is_read_again_and_sessions_stay() {
    let store = failing();
    let driver = start(&store).await;
    let a = registered(&driver, "a").await;
    submitted(&driver, "first").await;
    let token = started(&driver, a).await;
    *store.faults.too_late.lock().expect("a lock") = true;
    store.faults.fail(0, 1);
    let mut watched = driver.watch(JobId(2));
    let unsure = driver.event(submit("second", Some("k"))).await;
    let told = watched.changed().await.expect("word of it");
    assert_eq!(told.spec.name, "second");
    assert!(
        matches!(unsure, Err(CallError::Unsure(_))),
        "{:?}",
        unsure.map_err(|e| e.to_string())
    );
    assert_eq!(
        names(&driver).await,
        ["first", "second"],
        "what is durable was forgotten"
    );
    assert!(matches!(
        driver.event(sync(a, Some(token))).await,
        Ok(Response::Wanted(Wanted::GoOn))
    ));
    // The one who was refused asks again, and gets the job that there is.
    let again = driver.event(submit("second", Some("k"))).await;
    assert!(
        matches!(
            again,
            Ok(Response::Submitted {
                job: JobId(2),
                created: false
            })
        ),
        "{:?}",
        again.err()
    );
}

/// A store that answers late is the coordinator's own trouble: no lease ends for it.
#[tokio::test]
async fn who_could_not_be_heard_while_the_store_was_slow_keeps_its_session() {
    let store = failing();
    let limits = Limits {
        lease: 1_500,
        ..Limits::default()
    };
    let driver = Driver::start(store.clone(), limits, NoArtifacts)
        .await
        .expect("a start");
    let a = registered(&driver, "a").await;
    submitted(&driver, "x").await;
    let token = started(&driver, a).await;
    store.faults.gate.forget_permits(usize::MAX);
    let blocked = driver.clone();
    let blocked = tokio::spawn(async move { blocked.event(submit("slow", None)).await });
    // Longer than the lease, as a disk may be.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    store.faults.gate.add_permits(1000);
    assert!(blocked.await.expect("a task").is_ok());
    let known = driver
        .read(move |engine| engine.job_of(token))
        .await
        .expect("a look");
    assert!(
        known.is_some(),
        "the attempt was lost for the coordinator's own trouble"
    );
    assert!(matches!(
        driver.event(sync(a, Some(token))).await,
        Ok(Response::Wanted(Wanted::GoOn))
    ));
    // One that is silent by itself is still noticed.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert!(
        driver
            .read(move |engine| engine.job_of(token))
            .await
            .expect("a look")
            .is_none()
    );
}

/// Two who wait for a job that cannot be stored as begun would ask, fail and wake each other
/// without end.
#[tokio::test]
async fn who_asks_in_vain_on_a_full_disk_wakes_nobody() {
    let store = failing();
    let driver = start(&store).await;
    let (a, b) = (
        registered(&driver, "a").await,
        registered(&driver, "b").await,
    );
    for session in [a, b] {
        driver.event(sync(session, None)).await.expect("an answer");
    }
    let Event::Submit { mut spec } = submit("for two", None) else {
        unreachable!("it is a submission")
    };
    spec.needs.workers = 2;
    driver.event(Event::Submit { spec }).await.expect("a job");
    // Both have been told of the job; what they are told from now on comes of what fails.
    let waiters = [a, b].map(|session| driver.waiter(session).expect("a session"));
    for waiter in &waiters {
        let _ = tokio::time::timeout(Duration::ZERO, waiter.woken.notified()).await;
    }
    store.faults.fail(0, 1_000_000);
    let before = store.faults.applied.load(SeqCst);
    for session in [a, b] {
        let answer = driver.event(sync(session, None)).await;
        assert!(
            !matches!(answer, Ok(Response::Wanted(Wanted::Run { .. }))),
            "a job was begun that is not stored as begun"
        );
    }
    // The first one is refused, as it cannot be given both; the second finds nobody who waits
    // beside it.
    assert_eq!(store.faults.applied.load(SeqCst), before + 1);
    for waiter in waiters {
        let woken = tokio::time::timeout(Duration::from_millis(20), waiter.woken.notified()).await;
        assert!(woken.is_err(), "who asks in vain wakes another");
    }
}

#[tokio::test]
async fn a_job_that_cannot_be_read_does_not_stop_a_start_and_is_named() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(SqliteStore::open(folder.path()).await.expect("a store"));
    let driver = Driver::start(store.clone(), Limits::default(), NoArtifacts)
        .await
        .expect("a start");
    for name in ["one", "two", "three"] {
        submitted(&driver, name).await;
    }
    drop((driver, store));
    let path = folder.path().join("qlora.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut other = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("a connection");
    sqlx::raw_sql("UPDATE jobs SET body = 'x' WHERE id = 3")
        .execute(&mut other)
        .await
        .expect("a change");
    other.close().await.expect("an end");
    // The first coordinator's task may still hold the folder for a moment.
    let store = loop {
        match SqliteStore::open(folder.path()).await {
            Ok(store) => break Arc::new(store),
            Err(StoreError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(e) => panic!("{e}"),
        }
    };
    // However often it is started, the journal tells of the job once; the driver itself names it
    // each time.
    for name in ["four", "five", "six"] {
        let driver = Driver::start(store.clone(), Limits::default(), NoArtifacts)
            .await
            .expect("a start");
        assert_eq!(names(&driver).await[..2], ["one", "two"]);
        assert!(
            driver
                .unreadable(JobId(3))
                .expect("a reason")
                .contains("body")
        );
        submitted(&driver, name).await;
        let journal = store.journal(0, 100).await.expect("a journal");
        let told = journal
            .iter()
            .filter(|e| e.kind == "unreadable" && e.job == Some(JobId(3)))
            .count();
        assert_eq!(told, 1, "{journal:?}");
    }
    assert_eq!(store.load().await.expect("jobs").reserved.job, JobId(6));
}
