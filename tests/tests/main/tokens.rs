//! Tokens of every role, as people and programs use them with the real coordinator.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use qlora_client::Client;
use qlora_proto::{
    DownloadRequest, GetJobRequest, JobKind, ListJobsRequest, StreamLogsRequest, SubmitRequest,
    SubscribeRequest,
};
use qlora_tests::{Answer, World, http, wait_until};
use serde_json::Value;
use tonic::Code;

use crate::faults::succeeded_once;

/// A token that was made, and the file that holds it.
struct Made {
    id: String,
    secret: String,
    file: String,
}

fn make(world: &World, role: &str, more: &[&str]) -> Made {
    let args = [&["token", "create", "--role", role, "--json"][..], more].concat();
    let answer = world.ctl(&args);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let made = answer.json().remove(0);
    assert_eq!(made["role"], role);
    let secret = made["token"].as_str().expect("a token").to_owned();
    let file = world.path(&format!("token-{}", made["id"]));
    fs::write(&file, &secret).expect("a file");
    Made {
        id: made["id"].to_string(),
        secret,
        file: file.to_string_lossy().into_owned(),
    }
}

/// What is told of a call with the token `made` that is refused.
fn refused(world: &World, made: &Made, args: &[&str]) -> String {
    let answer = world.ctl(&[args, &["--token-file", &made.file]].concat());
    assert_eq!(answer.code, 5, "{args:?}: {}", answer.stderr);
    answer.stderr
}

fn ok(world: &World, made: &Made, args: &[&str]) -> String {
    let answer = world.ctl(&[args, &["--token-file", &made.file]].concat());
    assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    answer.stdout
}

fn revoke(world: &World, made: &Made) {
    let answer = world.ctl(&["token", "revoke", &made.id]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
}

/// The cookie that the link of the page gives a browser.
fn cookie(world: &World, made: &Made) -> String {
    let link = ok(world, made, &["page"]);
    assert!(!link.contains(&made.secret), "the token itself is no key");
    let path = link
        .trim()
        .strip_prefix(&format!("http://{}", world.address))
        .expect("a link to this coordinator");
    let entered = http(&world.address, "GET", path, &[], &[]);
    assert_eq!(entered.status, 303, "{}", entered.text());
    let text = entered.text();
    let cookie = text
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    cookie.split(';').next().expect("a pair").to_owned()
}

fn visit(world: &World, method: &str, path: &str, cookie: &str) -> Answer {
    let headers = [("Cookie", cookie), ("Sec-Fetch-Site", "same-origin")];
    http(&world.address, method, path, &headers, &[])
}

/// Sends a form of the page.
fn post(world: &World, path: &str, cookie: &str, form: &str) -> Answer {
    let headers = [
        ("Cookie", cookie),
        ("Sec-Fetch-Site", "same-origin"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    http(&world.address, "POST", path, &headers, form.as_bytes())
}

/// What the forms of a page bring.
fn form_key(page: &str) -> String {
    let (_, rest) = page
        .split_once("name=\"csrf\" value=\"")
        .expect("a form with a key");
    format!("csrf={}", rest.split('"').next().expect("a key"))
}

fn client(world: &World, made: &Made) -> Client {
    Client::new(&world.address, Some(Path::new(&made.file))).expect("a client")
}

#[test]
fn a_worker_and_a_submitter_do_their_part_with_their_own_tokens() {
    let mut world = World::new(&[]);
    let (worker, submitter) = (
        make(&world, "worker", &["--expires", "1h"]),
        make(&world, "submitter", &["--name", "ci"]),
    );
    assert!(worker.secret.starts_with("qlora_") && worker.secret.len() == 70);
    let _running = world.worker("a", &["--token-file", &worker.file]);
    let config = world.config("training: {max_steps: 6, checkpoint_every: 2, eval_rows: 1}");
    let told = refused(&world, &worker, &["submit", &config.to_string_lossy()]);
    assert!(told.contains("submitter"), "{told}");
    let id = world.submit(&config, &["--token-file", &submitter.file]);
    let number = id.to_string();
    ok(&world, &submitter, &["watch", &number]);
    succeeded_once(&world.job(id));
    assert!(ok(&world, &submitter, &["logs", &number]).contains("step"));
    let out = world.path("adapter").to_string_lossy().into_owned();
    let told = refused(&world, &worker, &["artifacts", "get", &number, "-o", &out]);
    assert!(told.contains("viewer"), "{told}");
    ok(
        &world,
        &submitter,
        &["artifacts", "get", &number, "-o", &out],
    );

    // Only hashes lie in the database.
    for entry in fs::read_dir(world.path("state")).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_file() {
            let bytes = fs::read(&path).expect("a file");
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(&submitter.secret), "{}", path.display());
        }
    }
    assert!(!world.coordinator.log().contains(&submitter.secret));
    let listed = world.ctl(&["token", "list", "--json"]).json();
    assert_eq!(listed.len(), 2);
    assert_eq!(
        (&listed[1]["name"], &listed[1]["role"]),
        (&"ci".into(), &"submitter".into())
    );
    assert!(listed[1]["last_used_unix_ms"].is_u64() && listed[0]["expires_unix_ms"].is_u64());
}

#[test]
fn what_a_role_may_not_do_is_refused_with_the_role_that_it_needs() {
    let mut world = World::new(&[]);
    let viewer = make(&world, "viewer", &[]);
    let submitter = make(&world, "submitter", &[]);
    let admin = make(&world, "admin", &["--name", "ana"]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]).to_string();
    for args in [
        &["jobs"][..],
        &["show", &id],
        &["workers"],
        &["explain", &id],
    ] {
        ok(&world, &viewer, args);
    }
    for args in [
        &["cancel", &id, "--yes"][..],
        &["pause", &id],
        &["retry", &id],
        &["rm", &id, "--yes"],
        &["config", "put", "c", &config.to_string_lossy()],
    ] {
        let told = refused(&world, &viewer, args);
        assert!(
            told.contains("has the role viewer and this needs submitter"),
            "{args:?}: {told}"
        );
    }
    for args in [
        &["token", "list"][..],
        &["token", "create", "--role", "admin"],
        &["token", "revoke", &viewer.id],
        &["workers", "--remove", "a"],
        &["drain", "a"],
        &["undrain", "a"],
        &["prune", "--keep", "0", "--dry-run"],
        &["prune", "--keep", "0", "--yes"],
    ] {
        assert!(refused(&world, &submitter, args).contains("needs admin"));
    }
    ok(&world, &admin, &["token", "list"]);
    assert_eq!(world.job(1)["state"], "queued");
    let mut worker = world.worker("v", &["--token-file", &viewer.file]);
    assert_eq!(worker.exit_code(), Some(5));
    assert!(worker.log().contains("needs worker"), "{}", worker.log());

    for (args, why) in [
        (
            &["--role", "admin", "--name", "ana"][..],
            "has the name ana",
        ),
        (&["--role", "viewer", "--name", "local"], "the first token"),
        (
            &["--role", "viewer", "--name", "token 1"],
            "letters, digits",
        ),
    ] {
        let answer = world.ctl(&[&["token", "create"][..], args].concat());
        assert!(answer.stderr.contains(why), "{args:?}: {}", answer.stderr);
        assert_ne!(answer.code, 0);
    }
    let unknown = world.ctl(&["token", "revoke", "99"]);
    assert_eq!(unknown.code, 5, "{}", unknown.stderr);
    assert!(unknown.stderr.contains("token list"), "{}", unknown.stderr);
    let usage = world.ctl(&["token", "create", "--role", "root"]);
    assert_eq!(usage.code, 2, "{}", usage.stderr);
}

#[test]
fn a_token_that_is_over_opens_nothing_and_its_worker_ends() {
    let mut world = World::new(&["--lease", "4"]);
    let brief = make(&world, "viewer", &["--expires", "1s"]);
    let told = wait_until("the end of a token", || {
        let answer = world.ctl(&["jobs", "--token-file", &brief.file]);
        (answer.code == 5).then_some(answer.stderr)
    });
    assert!(
        told.contains("Q0404") && told.contains("has expired") && told.contains("token create"),
        "{told}"
    );
    let worker = make(&world, "worker", &[]);
    let mut running = world.worker("a", &["--token-file", &worker.file]);
    wait_until("the worker", || {
        let workers = world.ctl(&["workers", "--json"]).json();
        workers.iter().find(|w| w["connected"] == true).map(drop)
    });
    revoke(&world, &worker);
    assert_eq!(running.exit_code(), Some(5));
    assert!(running.log().contains("was revoked"), "{}", running.log());

    // A restart forgets neither.
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    for (made, why) in [(&brief, "has expired"), (&worker, "was revoked")] {
        assert!(refused(&world, made, &["workers"]).contains(why));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_ends_at_once_when_its_token_is_revoked() {
    let world = World::new(&[]);
    let viewer = make(&world, "viewer", &[]);
    let mut client = client(&world, &viewer);
    let everything = SubscribeRequest::default();
    let mut events = client
        .events
        .subscribe(everything)
        .await
        .expect("a stream")
        .into_inner();
    let first = events
        .message()
        .await
        .expect("a message")
        .expect("an event");
    assert_eq!(
        (first.act.as_str(), first.who.as_str()),
        ("token create", "local")
    );
    // Nothing comes on this one: the job waits for a worker, and none is there.
    let id = world.submit(&world.config("training: {max_steps: 2}"), &[]);
    let asked = StreamLogsRequest {
        id,
        follow: true,
        ..StreamLogsRequest::default()
    };
    let logs = client.jobs.stream_logs(asked).await.expect("a stream");
    let mut logs = logs.into_inner();
    revoke(&world, &viewer);
    let silent = logs.message().await.expect_err("an end");
    assert_eq!(silent.code(), Code::Unauthenticated, "{silent}");
    let ended = loop {
        match events.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let refused = client.jobs.list_jobs(ListJobsRequest::default()).await;
    let refused = refused.expect_err("a refusal");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
}

#[test]
fn a_viewer_sees_a_page_without_buttons_and_cannot_cancel_by_it() {
    let world = World::new(&[]);
    let viewer = make(&world, "viewer", &[]);
    let submitter = make(&world, "submitter", &["--name", "ci"]);
    let worker = make(&world, "worker", &[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]);
    let (page, cancel) = (format!("/j/{id}"), format!("/j/{id}/cancel"));

    let looking = cookie(&world, &viewer);
    let shown = visit(&world, "GET", &page, &looking);
    assert_eq!(shown.status, 200);
    assert!(
        shown.text().contains("no worker has registered") && !shown.text().contains("<form"),
        "{}",
        shown.text()
    );
    let told = visit(&world, "POST", &cancel, &looking);
    assert!(
        told.status == 403 && told.text().contains("needs submitter"),
        "{}",
        told.text()
    );
    assert_eq!(world.job(id)["state"], "queued");
    let told = refused(&world, &worker, &["page"]);
    assert!(told.contains("needs viewer"), "{told}");

    let acting = cookie(&world, &submitter);
    assert!(
        visit(&world, "GET", &page, &acting)
            .text()
            .contains("<form")
    );
    revoke(&world, &viewer);
    assert_eq!(visit(&world, "GET", &page, &looking).status, 401);
    // The browser sends the cookie by itself; what no page of the session has made is refused.
    let told = visit(&world, "POST", &cancel, &acting);
    assert_eq!(told.status, 415, "{}", told.text());
    assert_eq!(post(&world, &cancel, &acting, "csrf=0").status, 403);
    assert_eq!(world.job(id)["state"], "queued");
    let key = form_key(&visit(&world, "GET", &page, &acting).text());
    assert_eq!(post(&world, &cancel, &acting, &key).status, 303);
    assert_eq!(world.job(id)["state"], "cancelled");
    let told = world.ctl(&["audit", "--json"]).json();
    let last = told.last().expect("an entry");
    assert_eq!(
        (&last["act"], &last["who"]),
        (&"cancel".into(), &"ci".into())
    );
}

#[test]
fn a_token_that_is_pasted_once_gives_a_session_that_can_be_ended() {
    let world = World::new(&[]);
    let viewer = make(&world, "viewer", &["--name", "eva"]);
    let wrong = post(&world, "/login", "", "token=qlora_wrong");
    assert_eq!(wrong.status, 401);
    assert!(
        wrong.text().contains("action=\"/login\""),
        "{}",
        wrong.text()
    );
    let form = format!("token={}", viewer.secret);
    let foreign = [("Origin", "http://evil.example")];
    let refused = http(&world.address, "POST", "/login", &foreign, form.as_bytes());
    assert_eq!(refused.status, 403);
    let entered = post(&world, "/login", "", &form);
    assert_eq!(entered.status, 303, "{}", entered.text());
    let text = entered.text();
    let cookie = text
        .lines()
        .find_map(|line| line.strip_prefix("set-cookie: "))
        .expect("a cookie");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains(&viewer.secret));
    let pair = cookie.split(';').next().expect("a pair");
    let sessions = visit(&world, "GET", "/sessions", pair);
    assert_eq!(sessions.status, 200);
    let shown = sessions.text();
    assert!(
        shown.contains("Sessions of eva") && shown.contains("this one"),
        "{shown}"
    );
    // A session of another token is not the viewer's to end.
    assert_eq!(
        post(&world, "/sessions/99/end", pair, &form_key(&shown)).status,
        404
    );
    assert_eq!(
        post(&world, "/sessions/1/end", pair, &form_key(&shown)).status,
        303
    );
    assert_eq!(visit(&world, "GET", "/", pair).status, 401);
}

#[test]
fn every_change_is_told_with_who_asked_for_it_and_from_where() {
    let mut world = World::new(&["--lease", "4"]);
    let ci = make(&world, "submitter", &["--name", "ci"]);
    let config = world.config("training: {max_steps: 2}");
    let text = config.to_string_lossy().into_owned();
    let number = world
        .submit(&config, &["--token-file", &ci.file])
        .to_string();
    for args in [
        &["pause", &number][..],
        &["resume", &number],
        &["cancel", &number, "--yes"],
        &["retry", &number, "--from-start"],
        &["rm", &number, "--yes"],
        &["config", "put", "c", &text],
        // The same text is no change.
        &["config", "put", "c", &text],
    ] {
        ok(&world, &ci, args);
    }
    refused(&world, &ci, &["cancel", "99", "--yes"]);
    // The job that is done again.
    for args in [
        &["cancel", "2", "--yes"][..],
        // What is only shown is no change.
        &["prune", "--keep", "0", "--dry-run"],
        &["prune", "--keep", "0", "--yes"],
    ] {
        let answer = world.ctl(args);
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    }
    let mut worker = world.worker("a", &[]);
    wait_until("the worker", || {
        let workers = world.ctl(&["workers", "--json"]).json();
        workers.iter().find(|w| w["connected"] == true).map(drop)
    });
    for args in [["drain", "a"], ["undrain", "a"]] {
        let answer = world.ctl(&args);
        assert_eq!(answer.code, 0, "{args:?}: {}", answer.stderr);
    }
    worker.stop();
    wait_until("the removal", || {
        let removed = world.ctl(&["workers", "--remove", "a"]);
        (removed.code == 0).then_some(())
    });
    revoke(&world, &ci);

    let told = world.ctl(&["audit", "--json"]).json();
    let acts: Vec<(&str, &str)> = told
        .iter()
        .map(|e| {
            let word = |key: &str| e[key].as_str().expect("a word");
            assert!(word("from").starts_with("127.0.0.1:"), "{e}");
            (word("who"), word("act"))
        })
        .collect();
    let wanted = [
        ("local", "token create"),
        ("ci", "submit"),
        ("ci", "pause"),
        ("ci", "resume"),
        ("ci", "cancel"),
        ("ci", "retry"),
        ("ci", "rm"),
        ("ci", "config put"),
        ("local", "cancel"),
        ("local", "prune"),
        ("local", "drain"),
        ("local", "undrain"),
        ("local", "worker removal"),
        ("local", "token revoke"),
    ];
    assert_eq!(acts, wanted);
    assert_eq!(told[1]["job"], number.parse::<u64>().expect("a number"));
    assert_eq!(told[9]["job"], 2);
    assert!(told[10..13].iter().all(|entry| entry["worker"] == "a"));
    let shown = world.ctl(&["audit", "--since", "1h"]);
    assert_eq!(
        shown.stdout.lines().count(),
        wanted.len(),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("token 1 ci of the role submitter"));
    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator();
    let again = world.ctl(&["audit", "--json"]).json();
    assert_eq!(again, told);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stolen_token_of_a_worker_opens_no_artifact_of_a_job() {
    let mut world = World::new(&[]);
    let stolen = make(&world, "worker", &["--expires", "1h"]);
    let id = world.submit(&world.config("training: {max_steps: 100000}"), &[]);
    let _running = world.worker("a", &[]);
    wait_until("the attempt", || {
        (world.job(id)["state"] == "running").then_some(())
    });
    let asked = GetJobRequest { id };
    let job = world.client().jobs.get_job(asked).await.expect("a job");
    let digest = job.into_inner().files[0].digest.clone();
    let mut thief = client(&world, &stolen);
    // No attempt, one that was made up, and one that may be the right one under a session that is not.
    for (token, session, wanted) in [
        (0, 0, Code::PermissionDenied),
        (u64::MAX, 1, Code::Unauthenticated),
        (1, 1, Code::Unauthenticated),
    ] {
        let asked = DownloadRequest {
            digest: digest.clone(),
            offset: 0,
            token,
            session,
        };
        let refused = thief
            .artifacts
            .download(asked)
            .await
            .expect_err("a refusal");
        assert_eq!(refused.code(), wanted, "{refused}");
    }
    // Whoever may read needs no attempt.
    let asked = DownloadRequest {
        digest,
        ..DownloadRequest::default()
    };
    let viewer = make(&world, "viewer", &[]);
    let mut reader = client(&world, &viewer);
    let answer = reader.artifacts.download(asked).await;
    let first = answer.expect("an answer").into_inner().message().await;
    assert!(first.expect("a message").is_some());
}

#[test]
fn wrong_tokens_from_one_address_are_slowed_and_right_ones_are_not() {
    let world = World::new(&[]);
    let begun = Instant::now();
    for _ in 0..16 {
        let wrong = [("Authorization", "Bearer qlora_wrong")];
        assert_eq!(http(&world.address, "GET", "/", &wrong, &[]).status, 401);
    }
    let waited = begun.elapsed();
    // Ten are free; the six others wait 50, 100, 200, 400, 800 and 1600 ms.
    assert!(waited >= Duration::from_millis(3100), "{waited:?}");
    assert!(world.coordinator.log().contains("refusals are slowed"));
    let bearer = format!("Bearer {}", world.token());
    let right = [("Authorization", bearer.as_str())];
    let begun = Instant::now();
    assert_eq!(http(&world.address, "GET", "/", &right, &[]).status, 200);
    assert!(begun.elapsed() < waited);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_every_bound_is_refused_and_disturbs_nobody() {
    let world = World::new(&[]);
    let mut client = world.client();
    let request = SubmitRequest {
        kind: JobKind::Noop.into(),
        config_json: "x".repeat(5 << 20),
        ..SubmitRequest::default()
    };
    let refused = client.jobs.submit(request).await;
    assert!(refused.is_err(), "five MiB were taken");
    let answer = world
        .client()
        .jobs
        .list_jobs(ListJobsRequest::default())
        .await;
    assert!(answer.expect("an answer").into_inner().jobs.is_empty());
}

/// What a token was given out for is told without the token.
#[test]
fn tokens_are_told_in_words_and_as_json_and_shown_once() {
    let world = World::new(&[]);
    let none = world.ctl(&["token", "list"]);
    assert!(none.stderr.contains("token create"), "{}", none.stderr);
    let plain = world.ctl(&["token", "create", "--role", "worker", "--name", "gpu-1"]);
    assert!(
        plain.stdout.trim().starts_with("qlora_") && plain.stderr.contains("expires on"),
        "{} {}",
        plain.stdout,
        plain.stderr
    );
    let table = world.ctl(&["token", "list"]).stdout;
    for part in ["gpu-1", "worker", "in force", "never"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(!table.contains(plain.stdout.trim()));
    let listed: Value = world.ctl(&["token", "list", "--json"]).json().remove(0);
    assert_eq!(listed["revoked_unix_ms"], Value::Null);
    assert!(listed.get("token").is_none());
}
