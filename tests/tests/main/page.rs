//! The page as a browser gets it.

use std::fs;

use qlora_tests::{Answer, World};

/// Status, head and body of an answer to somebody who has the token.
pub fn http(
    world: &World,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> (u16, String, Vec<u8>) {
    let bearer = format!("Bearer {}", world.token());
    let own = [("Host", world.address.as_str()), ("Authorization", &bearer)];
    let Answer { status, head, body } =
        qlora_tests::http(&world.address, method, path, &[&own, headers].concat(), &[]);
    (status, head, body)
}

fn page(world: &World, path: &str) -> String {
    let (status, _, body) = http(world, "GET", path, &[]);
    assert_eq!(status, 200, "{path}");
    String::from_utf8_lossy(&body).into_owned()
}

#[test]
fn a_waiting_job_says_why_and_can_be_cancelled_from_its_own_page_only() {
    let world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &["--set", "resources.labels.site=mars"]);
    assert!(page(&world, "/").contains("no worker has registered"));
    let shown = page(&world, &format!("/j/{id}"));
    assert!(
        shown.contains("no worker has registered")
            && shown.contains(&format!("action=\"/j/{id}/cancel\"")),
        "{shown}"
    );
    let cancel = format!("/j/{id}/cancel");
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        assert_eq!(
            http(&world, "POST", &cancel, &[("Origin", origin)]).0,
            403,
            "{origin}"
        );
    }
    assert_eq!(http(&world, "GET", &cancel, &[]).0, 405);
    assert_eq!(world.job(id)["state"], "queued");
    let own = format!("http://{}", world.address);
    let (status, head, _) = http(&world, "POST", &cancel, &[("Origin", &own)]);
    assert!(
        status == 303 && head.contains(&format!("location: /j/{id}")),
        "{head}"
    );
    assert_eq!(world.job(id)["state"], "cancelled");
    assert!(
        !page(&world, &format!("/j/{id}")).contains("<form"),
        "a job that ended cannot be cancelled"
    );
}

#[test]
fn artifacts_come_whole_and_the_log_ends_with_its_last_line() {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let config = world.config("training: {max_steps: 60, checkpoint_every: 0, eval_rows: 1}");
    let id = world.submit(&config, &[]);
    let job = world.ended(id);
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let log = world.ctl(&["logs", &id.to_string(), "--json"]).json();
    assert!(log.len() > 45, "only {} lines", log.len());
    let shown = page(&world, &format!("/j/{id}"));
    let last = log.last().expect("a line")["text"]
        .as_str()
        .expect("text")
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    assert!(
        shown.contains(&format!("{last}\n")) && shown.contains("The last 40 lines"),
        "{shown}"
    );
    let artifact = job["artifacts"]
        .as_array()
        .expect("artifacts")
        .last()
        .expect("an adapter");
    let name = artifact["name"].as_str().expect("a name");
    let path = format!("/j/{id}/artifacts/{name}");
    assert!(shown.contains(&format!("href=\"{path}\"")), "{shown}");
    let (status, head, body) = http(&world, "GET", &path, &[]);
    assert!(
        status == 200 && head.contains("content-disposition: attachment"),
        "{head}"
    );
    assert_eq!(Some(body.len() as u64), artifact["size"].as_u64());
    fs::write(world.path("got.tar"), &body).expect("a file");
    let digest = qlora_client::transfer::digest(&world.path("got.tar"))
        .expect("a digest")
        .0;
    assert_eq!(digest, artifact["digest"].as_str().expect("a digest"));
    assert_eq!(
        http(&world, "GET", &format!("/j/{id}/artifacts/nosuch"), &[]).0,
        404
    );
}

#[test]
fn what_is_not_there_is_a_page_with_a_way_back() {
    let world = World::new(&[]);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &["--set", "resources.labels.site=mars"]);
    let own = format!("http://{}", world.address);
    let asked = |method: &str, path: &str| {
        let (status, head, body) = http(&world, method, path, &[("Origin", &own)]);
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            head.to_lowercase().contains("content-type: text/html"),
            "{path}: {head}"
        );
        assert!(
            text.contains("<a href=\"/\">All jobs and workers</a>"),
            "{path}: {text}"
        );
        (status, text)
    };
    for path in [
        "/j/abc",
        "/j/0",
        "/j/-1",
        "/j/99",
        "/j/1e3",
        "/j/99999999999999999999",
        "/jobs",
        "/j",
        "/j/1/nosuch",
    ] {
        assert_eq!(asked("GET", path).0, 404, "{path}");
    }
    for path in ["/j/abc/artifacts/x", "/j/99/artifacts/x"] {
        assert_eq!(asked("GET", path).0, 404, "{path}");
    }
    for path in ["/j/99/cancel", "/j/abc/cancel"] {
        assert_eq!(asked("POST", path).0, 404, "{path}");
    }
    assert_eq!(asked("GET", &format!("/j/{id}/cancel")).0, 405);
    assert_eq!(world.ctl(&["cancel", &id.to_string(), "--yes"]).code, 0);
    let (status, text) = asked("POST", &format!("/j/{id}/cancel"));
    assert!(
        status == 409 && text.contains("cancelled"),
        "{status} {text}"
    );
}
