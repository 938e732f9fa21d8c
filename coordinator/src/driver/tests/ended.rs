//! Ended jobs leave the engine and come back for what names them.

use qlora_engine::{
    Attempt, AttemptEnd, Holder, Job, JobId, JobSpec, Millis, Now, Outcome, Prune, Refusal,
};
use qlora_store::{SqliteStore, Write};

use super::*;

/// A driver over `store`, and a job with the key `k` that has succeeded.
async fn with_ended(store: &Arc<Failing>) -> (Handle, JobId) {
    let driver = start(store).await;
    let a = registered(&driver, "a").await;
    let Ok(Response::Submitted { job, .. }) = driver.event(submit("x", Some("k"))).await else {
        panic!("no job")
    };
    let token = started(&driver, a).await;
    for event in [checkpoint(a, token, 1), finish(a, token)] {
        driver.event(event).await.expect("an end");
    }
    (driver, job)
}

async fn at_hand(driver: &Handle) -> Vec<JobId> {
    let look = driver.read(|engine| engine.jobs().map(|job| job.id).collect());
    look.await.expect("a look")
}

fn retry(job: JobId) -> Event {
    Event::Retry {
        job,
        from_start: true,
        idempotency_key: None,
        owner: String::new(),
    }
}

#[tokio::test]
async fn an_ended_job_is_not_at_hand_and_whatever_names_it_finds_it_all_the_same() {
    let store = failing();
    let (driver, job) = with_ended(&store).await;
    // The second driver has started over the ended job, the first one has seen it end.
    for driver in [driver, start(&store).await] {
        assert!(!at_hand(&driver).await.contains(&job));
        let again = driver.event(submit("x", Some("k"))).await;
        let known = Response::Submitted {
            job,
            created: false,
        };
        assert_eq!(again.expect("the same job"), known);
        let cancel = Event::Cancel {
            job,
            reason: "r".into(),
        };
        let refused = driver.event(cancel).await;
        let Err(CallError::Refused(Refusal::JobEnded { state, .. })) = refused else {
            panic!("an ended job was cancelled")
        };
        assert_eq!(state, "succeeded");
        assert!(!at_hand(&driver).await.contains(&job), "it stays at hand");
    }
    let driver = start(&store).await;
    let Ok(Response::Submitted { job: again, .. }) = driver.event(retry(job)).await else {
        panic!("no retry")
    };
    let made = driver.read(move |engine| engine.job(again).cloned());
    let made = made.await.expect("a look").expect("the retry");
    assert_eq!(
        (made.spec.retry_of, made.spec.name.as_str()),
        (Some(job), "x")
    );
}

#[tokio::test]
async fn a_job_comes_after_one_that_only_the_store_has() {
    let store = failing();
    let (driver, job) = with_ended(&store).await;
    for driver in [driver, start(&store).await] {
        assert!(!at_hand(&driver).await.contains(&job));
        let mut spec = of("ann");
        spec.after.jobs = vec![job];
        let Ok(Response::Submitted { job: next, .. }) = driver.event(Event::Submit { spec }).await
        else {
            panic!("no job")
        };
        let made = driver.read(move |engine| engine.job(next).cloned());
        let made = made.await.expect("a look").expect("the job");
        assert!(made.waits_for.is_empty(), "it may start");
        assert!(!at_hand(&driver).await.contains(&job), "nobody needs it");
    }
}

/// A job of `owner`.
fn of(owner: &str) -> Box<JobSpec> {
    let Event::Submit { mut spec } = submit(owner, None) else {
        panic!("a submission")
    };
    spec.owner = owner.into();
    spec
}

/// What ended jobs have used is read with what a start reads of them.
#[tokio::test]
async fn a_restart_knows_whose_job_is_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(SqliteStore::open(folder.path()).await.expect("a store"));
    let holder = Holder {
        worker: "a".into(),
        instance: "a".into(),
        session: None,
    };
    let (at, outcome) = (Millis(2), Outcome::Succeeded);
    let mut attempt = Attempt::new(Token(1), holder, Vec::new(), Millis(1));
    attempt.end = Some(AttemptEnd {
        at,
        outcome,
        message: String::new(),
        code: String::new(),
    });
    let mut used = Job::new(JobId(1), *of("ann"), Now::both(1));
    used.state = JobState::Succeeded { at };
    used.attempts.push(attempt);
    let write = Write::SaveJob(Box::new(used));
    store.apply(vec![write]).await.expect("a write");

    let driver = Driver::start(store.clone(), Limits::default(), NoArtifacts);
    let driver = driver.await.expect("a start");
    for owner in ["ann", "bob"] {
        let spec = of(owner);
        driver.event(Event::Submit { spec }).await.expect("a job");
    }
    let look = driver.read(|engine| [2, 3].map(|job| engine.queued_before(JobId(job))));
    assert_eq!(look.await.expect("a look"), [1, 0], "Bob has used nothing");
}

#[tokio::test]
async fn a_change_of_an_ended_job_that_is_not_stored_did_not_happen_and_is_made_again() {
    let store = failing();
    let (driver, job) = with_ended(&store).await;
    let prune = || Event::Prune {
        job,
        what: Prune::Artifacts,
        reason: "r".into(),
    };
    store.faults.fail(0, 1);
    refused(driver.event(prune()).await, "a removal");
    assert!(!at_hand(&driver).await.contains(&job));
    let needed = driver.read(|engine| engine.digests().count());
    assert!(
        needed.await.expect("a look") > 0,
        "its artifacts are forgotten"
    );
    driver.event(prune()).await.expect("a removal");
    let needed = driver.read(|engine| engine.digests().count());
    assert_eq!(needed.await.expect("a look"), 0);
    driver
        .event(Event::RemoveJob { job })
        .await
        .expect("an end");
    assert!(store.job(job).await.expect("a look").is_none());
    let gone = driver.event(Event::RemoveJob { job }).await;
    assert!(matches!(
        gone,
        Err(CallError::Refused(Refusal::UnknownJob(_)))
    ));
}

#[tokio::test]
async fn an_ended_job_that_cannot_be_read_is_named_once_somebody_asks_for_it() {
    use sqlx::Connection;
    let folder = tempfile::tempdir().expect("a folder");
    let store = Arc::new(SqliteStore::open(folder.path()).await.expect("a store"));
    let driver = Driver::start(store.clone(), Limits::default(), NoArtifacts)
        .await
        .expect("a start");
    let job = submitted(&driver, "x").await;
    let reason = "r".into();
    let cancel = Event::Cancel { job, reason };
    driver.event(cancel).await.expect("an end");
    let options =
        sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("qlora.db"));
    let mut other = sqlx::SqliteConnection::connect_with(&options)
        .await
        .expect("a connection");
    sqlx::raw_sql("UPDATE jobs SET body = 'x'")
        .execute(&mut other)
        .await
        .expect("a change");
    assert!(driver.unreadable(job).is_none());
    let refused = driver.event(retry(job)).await;
    assert!(matches!(refused, Err(CallError::Unreadable { job: named, .. }) if named == job));
    assert!(driver.unreadable(job).expect("a reason").contains("body"));
    let state = driver.read(|engine| engine.ended_away());
    assert_eq!(
        state.await.expect("a look").map(|(_, count)| count),
        [0, 0, 1]
    );
}
