//! Who is let in by the real coordinator, and what the others are told.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use qlora_proto::ListJobsRequest;
use qlora_proto::job_service_client::JobServiceClient;
use qlora_tests::{World, binary, forget_settings, wait_until};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// Status and text of an answer. A POST brings an empty gRPC message.
fn http(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let body: &[u8] = if method == "POST" { &[0; 5] } else { &[] };
    let answer = qlora_tests::http(address, method, path, headers, body);
    (answer.status, answer.text())
}

fn jobs(world: &World) -> usize {
    let answer = world.ctl(&["jobs", "--json"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    answer.json().len()
}

#[test]
fn a_page_of_another_origin_reaches_nothing() {
    let world = World::new(&[]);
    let (address, bearer) = (world.address.as_str(), format!("Bearer {}", world.token()));
    let known = ("Authorization", bearer.as_str());
    let submit = "/qlora.v1.JobService/Submit";
    for kind in [
        "text/plain",
        "application/grpc",
        "application/x-www-form-urlencoded",
    ] {
        for origin in [&[][..], &[("Origin", "http://evil.example")]] {
            let headers: Vec<_> = [("Content-Type", kind), known]
                .into_iter()
                .chain(origin.iter().copied())
                .collect();
            let (status, text) = http(address, "POST", submit, &headers);
            assert!(matches!(status, 403 | 505), "{text}");
        }
    }
    for path in ["/", "/j/1", "/metrics", "/nothing"] {
        let (status, text) = http(address, "GET", path, &[("Host", "evil.example"), known]);
        assert!(
            status == 421 && text.contains("--allow-host evil.example"),
            "{path}: {text}"
        );
        for from in [
            ("Origin", "http://localhost:1"),
            ("Sec-Fetch-Site", "cross-site"),
            ("Sec-Fetch-Site", "same-site"),
        ] {
            let (status, text) = http(address, "GET", path, &[from, known]);
            assert_eq!(status, 403, "{path} {from:?}: {text}");
        }
    }
    let (_, text) = http(address, "GET", "/", &[known]);
    assert!(
        !text.to_ascii_lowercase().contains("access-control-"),
        "{text}"
    );
    assert_eq!(
        http(
            address,
            "OPTIONS",
            "/",
            &[("Origin", "http://evil.example")]
        )
        .0,
        403
    );
    assert_eq!(jobs(&world), 0);
}

#[test]
fn only_health_is_told_without_a_token_and_the_link_of_the_page_opens_it() {
    let world = World::new(&[]);
    let address = world.address.as_str();
    assert_eq!(
        http(address, "GET", "/healthz", &[("Host", "10.1.2.3:80")]).0,
        200
    );
    for path in ["/", "/j/1", "/metrics", "/nothing"] {
        let (status, text) = http(address, "GET", path, &[]);
        assert!(
            status == 401 && text.contains("--token-file"),
            "{path}: {text}"
        );
        assert_eq!(
            http(address, "GET", path, &[("Authorization", "Bearer wrong")]).0,
            401,
            "{path}"
        );
    }
    let (_, page) = http(address, "GET", "/", &[("Accept", "text/html")]);
    assert!(page.contains("qlora-ctl page"), "{page}");
    let bearer = format!("Bearer {}", world.token());
    let (status, metrics) = http(address, "GET", "/metrics", &[("Authorization", &bearer)]);
    assert!(status == 200 && metrics.contains("qlora_"), "{metrics}");

    let link = world.ctl(&["page"]);
    assert_eq!(link.code, 0, "{}", link.stderr);
    let path = link
        .stdout
        .trim()
        .strip_prefix(&format!("http://{address}"))
        .expect("a link to this coordinator");
    let (status, entered) = http(address, "GET", path, &[("Sec-Fetch-Site", "none")]);
    assert_eq!(status, 303, "{entered}");
    let header = |name: &str| {
        entered
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("a header")
            .to_owned()
    };
    assert_eq!(header("location: "), "/");
    let (status, again) = http(address, "GET", path, &[("Accept", "text/html")]);
    assert!(
        status == 401 && again.contains("opened before"),
        "a link opens once: {again}"
    );
    let cookie = header("set-cookie: ");
    let cookie = cookie.split(';').next().expect("a cookie");
    let (status, page) = http(
        address,
        "GET",
        "/",
        &[("Cookie", cookie), ("Sec-Fetch-Site", "same-origin")],
    );
    assert!(status == 200 && page.contains("No job yet"), "{page}");
    for secret in [link.stdout.as_str(), cookie, &world.coordinator.log()] {
        assert!(
            !secret.contains(&world.token()),
            "the token itself stays where it is"
        );
    }
}

async fn list(world: &World, name: &str, token: &str) -> Result<(), Status> {
    let endpoint = Endpoint::from_shared(format!("http://{}", world.address)).expect("an address");
    let endpoint = endpoint.origin(format!("http://{name}").parse().expect("a name"));
    let mut client = JobServiceClient::new(endpoint.connect().await.expect("a connection"));
    let mut request = Request::new(ListJobsRequest::default());
    request.metadata_mut().insert(
        "authorization",
        format!("Bearer {token}").parse().expect("a header"),
    );
    client.list_jobs(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_not_the_coordinators_is_refused_until_it_is_allowed() {
    let world = World::new(&[]);
    let own = world.token();
    list(&world, "localhost:1234", &own)
        .await
        .expect("every port is as good");
    let refused = list(&world, "gpu.example.com:7070", &own)
        .await
        .expect_err("a refusal");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("--allow-host gpu.example.com"),
        "{refused}"
    );
    let allowing = World::new(&["--allow-host", "other,GPU.example.com"]);
    let own = allowing.token();
    list(&allowing, "gpu.example.com:7070", &own)
        .await
        .expect("an answer");
    let refused = list(&allowing, "gpu.example.com", "wrong")
        .await
        .expect_err("a refusal");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(list(&allowing, "gpu.example.org", &own).await.is_err());
}

#[test]
fn the_token_is_made_once_for_its_owner_and_another_user_is_told_the_way_out() {
    let mut world = World::new(&[]);
    let file = world.path("state/token");
    let made = world.token();
    assert_eq!(
        fs::metadata(&file).expect("a file").permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(made.len(), 64);
    assert_eq!(jobs(&world), 0);

    let elsewhere = world.path("elsewhere").to_string_lossy().into_owned();
    let stranger = [("XDG_DATA_HOME", elsewhere.as_str())];
    let told = world.ctl_with(&["jobs"], &stranger);
    assert_eq!(told.code, 5);
    for part in ["Q0404", "--token-file", "this user runs no coordinator"] {
        assert!(told.stderr.contains(part), "{part}: {}", told.stderr);
    }
    let copy = world.ctl_with(
        &["jobs", "--token-file", &file.to_string_lossy()],
        &stranger,
    );
    assert_eq!(copy.code, 0, "{}", copy.stderr);
    let variable = world.ctl_with(&["jobs"], &[stranger[0], ("QLORA_TOKEN", &made)]);
    assert_eq!(variable.code, 0, "{}", variable.stderr);

    assert_eq!(world.coordinator.stop(), Some(0));
    world.restart_coordinator_elsewhere();
    assert_eq!(world.token(), made);
    assert_eq!(jobs(&world), 0);
    let other = World::new(&[]);
    assert_ne!(other.token(), made);
    assert_eq!((jobs(&other), jobs(&world)), (0, 0));
}

#[test]
fn a_wrong_token_is_refused_with_the_way_out_that_fits_where_it_is_from() {
    let mut world = World::new(&[]);
    let wrong = world.path("wrong");
    fs::write(&wrong, "another-secret-of-some-length\n").expect("a file");
    let wrong = wrong.to_string_lossy().into_owned();
    let by_file = world.ctl(&["jobs", "--token-file", &wrong, "--json"]);
    assert!(
        by_file.code == 5 && by_file.stderr.contains("Q0404"),
        "{}",
        by_file.stderr
    );
    assert!(
        by_file
            .stderr
            .contains("that --token-file or QLORA_TOKEN_FILE names"),
        "{}",
        by_file.stderr
    );
    let by_variable = world.ctl_with(&["jobs"], &[("QLORA_TOKEN", "another-secret")]);
    assert!(
        by_variable.code == 5 && by_variable.stderr.contains("unset it"),
        "{}",
        by_variable.stderr
    );
    let unset = world.ctl_with(&["jobs"], &[("QLORA_TOKEN", "")]);
    assert_eq!(unset.code, 0, "{}", unset.stderr);
    let missing = world.ctl(&["jobs", "--token-file", "/nowhere/token"]);
    assert!(
        missing.code == 2 && missing.stderr.contains("/nowhere/token"),
        "{}",
        missing.stderr
    );
    let mut worker = world.worker("a", &["--token-file", &wrong]);
    assert_eq!(worker.exit_code(), Some(5));
    assert!(
        worker.log().contains("Q0404") && worker.log().contains("--token-file"),
        "{}",
        worker.log()
    );
    let code = world.ctl(&["explain", "Q0404"]);
    assert!(
        code.code == 0 && code.stdout.contains("state folder"),
        "{}",
        code.stdout
    );
}

#[test]
fn a_token_of_a_coordinator_that_is_gone_is_sent_to_nobody() {
    let mut world = World::new(&[]);
    world.coordinator.kill();
    let gone = world.ctl(&["jobs"]);
    assert!(
        gone.code == 4 && gone.stderr.contains("Q0401"),
        "{}",
        gone.stderr
    );
    // Another user takes the address.
    let (state, data) = (world.path("other-state"), world.path("other-data"));
    let other = coordinator(&world.address, &state, |command| {
        command.env("XDG_DATA_HOME", &data);
    });
    let told = world.ctl(&["jobs"]);
    assert_eq!(told.code, 5, "{}", told.stderr);
    assert!(
        told.stderr.contains("brings no token") && told.stderr.contains("is gone"),
        "{}",
        told.stderr
    );
    drop(other);
    world.restart_coordinator();
    assert_eq!(jobs(&world), 0);
}

#[test]
fn a_worker_finds_the_token_of_a_coordinator_that_starts_after_it_and_of_one_with_another_token() {
    let mut world = World::new(&[]);
    assert_eq!(world.coordinator.stop(), Some(0));
    let _worker = world.worker("a", &[]);
    wait_until("the worker to start", || {
        Some(()).filter(|()| world.path("worker-1/instance").exists())
    });
    world.restart_coordinator();
    let connected = |world: &World| {
        wait_until("the worker", || {
            let answer = world.ctl(&["workers", "--json"]);
            answer
                .json()
                .iter()
                .any(|w| w["worker"] == "a" && w["connected"] == true)
                .then_some(())
        });
    };
    connected(&world);
    assert_eq!(world.coordinator.stop(), Some(0));
    let before = world.token();
    fs::remove_file(world.path("state/token")).expect("a token");
    world.restart_coordinator();
    assert_ne!(world.token(), before);
    connected(&world);
}

/// A coordinator that is ended with the test.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a coordinator with few descriptors, and waits until it serves.
fn coordinator(listen: &str, state: &std::path::Path, with: impl FnOnce(&mut Command)) -> Other {
    let file = state.with_extension("address");
    let mut command = Command::new("sh");
    forget_settings(&mut command);
    command
        .args(["-c", "ulimit -n 256 && exec \"$0\" \"$@\""])
        .arg(binary("qlora-coordinator"));
    command
        .args(["--listen", listen, "--state-dir"])
        .arg(state)
        .arg("--address-file")
        .arg(&file);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    with(&mut command);
    let child = Other(command.spawn().expect("a program that starts"));
    wait_until("another coordinator", || {
        fs::read_to_string(&file)
            .ok()
            .filter(|text| !text.is_empty())
    });
    child
}

#[test]
fn more_idle_connections_than_descriptors_lock_nobody_out() {
    let mut world = World::new(&[]);
    assert_eq!(world.coordinator.stop(), Some(0));
    let _few = coordinator(&world.address, &world.path("state"), |_| {});
    let mut worker = world.worker("a", &[]);
    wait_until("the worker", || {
        Some(()).filter(|()| worker.log().contains("registered"))
    });
    let idle: Vec<TcpStream> = (0..300)
        .map(|_| TcpStream::connect(&world.address).expect("a connection"))
        .collect();
    assert_eq!(jobs(&world), 0);
    let config = world.config("training: {max_steps: 2}");
    let id = world.submit(&config, &[]);
    assert_eq!(world.ended(id)["state"], "succeeded");
    assert!(!worker.log().contains("away"), "{}", worker.log());
    drop(idle);
    assert_eq!(worker.stop(), Some(0));
}
