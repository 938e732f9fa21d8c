//! Every error code of the catalogue is provoked by some test; those that no other test asks for are provoked here.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use qlora_config::ResolvedConfig;
use qlora_tests::{World, binary, conversations, wait_until};
use sqlx::Connection;

use crate::runs::{Place, execute, execute_together};

/// A code, and what brings a program to print it: what it printed.
type Case = (&'static str, fn() -> String);

const CASES: [Case; 20] = [
    ("Q0001", || program("qlora-ctl", &["explain", "nonsense"])),
    ("Q0102", || ResolvedConfig::from_json("{}").expect_err("a configuration without keys").to_string()),
    ("Q0203", no_conversation),
    ("Q0204", broken_template),
    ("Q0402", || program("qlora-ctl", &["--coordinator", "not an address", "jobs"])),
    ("Q0405", taken_address),
    ("Q0407", short_token),
    ("Q0408", no_home),
    ("Q0409", shared_state),
    ("Q0410", unreadable_job),
    ("Q0501", failed_job),
    ("Q0503", cancelled_job),
    ("Q0504", job_without_worker),
    ("Q0513", damaged_checkpoint),
    ("Q0516", other_rows),
    ("Q0601", || coordinator(|state| fs::write(state, "no folder").expect("a file"), &[], &[])),
    ("Q0602", || coordinator(artifacts_are_a_file, &[], &[])),
    ("Q0603", || coordinator(|_| (), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[")])),
    ("Q0604", || coordinator(|_| (), &["--address-file", "/nowhere/at/all"], &[])),
    ("Q0606", quickstart_alone),
];

/// Codes that nothing can provoke now, and why they stand in the catalogue.
const UNREACHABLE: [(&str, &str); 1] = [("Q0106", "the defaults give every key that a file may leave out")];

fn said(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).env_remove("QLORA_TOKEN").output().expect("a program that runs");
    assert!(!output.status.success(), "it succeeded: {command:?}");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

fn program(name: &str, args: &[&str]) -> String {
    said(Command::new(binary(name)).args(args))
}

/// A coordinator that cannot start, in a state folder that `prepare` was given.
fn coordinator(prepare: fn(&Path), args: &[&str], env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    prepare(&state);
    let mut command = Command::new(binary("qlora-coordinator"));
    command.arg("--state-dir").arg(&state).args(["--listen", "127.0.0.1:0"]).args(args);
    said(command.envs(env.iter().copied()))
}

fn artifacts_are_a_file(state: &Path) {
    fs::create_dir_all(state).expect("a folder");
    fs::write(state.join("artifacts"), "no folder").expect("a file");
}

fn no_conversation() -> String {
    let world = World::new(&[]);
    let rows = world.path("bad.jsonl");
    fs::write(&rows, "{\"messages\": 7}\n").expect("rows");
    let config = world.config("").to_string_lossy().into_owned();
    world.ctl(&["submit", &config, "--set", &format!("data.train={}", rows.display())]).stderr
}

fn broken_template() -> String {
    let place = Place::new();
    fs::write(place.model.join("chat_template.jinja"), "{% if %}").expect("a template");
    let error = execute(&place.run("broken", &[], None), None).0.expect_err("a run without a template");
    format!("[{}] {error}", error.code())
}

fn taken_address() -> String {
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = taken.local_addr().expect("an address").to_string();
    let state = tempfile::tempdir().expect("a folder");
    let state = state.path().to_string_lossy();
    program("qlora-coordinator", &["--listen", &address, "--state-dir", &state])
}

fn short_token() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "short\n").expect("a token");
    let state = folder.path().join("state");
    program(
        "qlora-coordinator",
        &["--token-file", &file.to_string_lossy(), "--state-dir", &state.to_string_lossy(), "--listen", "127.0.0.1:0"],
    )
}

fn no_home() -> String {
    said(Command::new(binary("qlora-coordinator")).env_clear().args(["--listen", "127.0.0.1:0"]))
}

fn shared_state() -> String {
    let mut world = World::new(&[]);
    let first = world.worker("a", &[]);
    wait_until("a worker", || Some(()).filter(|()| first.log().contains("registered")));
    let mut second = world.worker_in("b", &world.path("worker-1"), &[]);
    assert_ne!(second.exit_code(), Some(0));
    second.log()
}

/// Its row is damaged while the coordinator is away.
fn unreadable_job() -> String {
    let mut world = World::new(&[]);
    let id = world.submit(&world.config(""), &[]);
    assert_eq!(world.coordinator.stop(), Some(0));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(world.path("state/qlora.db"));
    let damage = async {
        let mut connection = sqlx::SqliteConnection::connect_with(&options).await.expect("a database");
        sqlx::raw_sql("UPDATE jobs SET body = 'x'").execute(&mut connection).await.expect("a change");
        connection.close().await.expect("an end");
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(damage);
    world.restart_coordinator();
    world.ctl(&["show", &id.to_string()]).stderr
}

fn failed_job() -> String {
    let mut world = World::new(&[]);
    let _worker = world.worker("a", &[]);
    let id = world.submit(&world.config(""), &["--set", "model.base=/nowhere/at/all"]);
    assert_eq!(world.ended(id)["state"], "failed");
    world.ctl(&["watch", &id.to_string()]).stderr
}

fn cancelled_job() -> String {
    let world = World::new(&[]);
    let id = world.submit(&world.config(""), &[]).to_string();
    assert_eq!(world.ctl(&["cancel", &id, "--yes"]).code, 0);
    world.ctl(&["watch", &id]).stderr
}

fn job_without_worker() -> String {
    let world = World::new(&[]);
    let id = world.submit(&world.config(""), &[]).to_string();
    world.ctl(&["watch", &id, "--timeout", "1"]).stderr
}

fn damaged_checkpoint() -> String {
    let place = Place::new();
    let run = place.run("first", &["training.checkpoint_every=2"], None);
    execute(&run, None).0.expect("a run");
    let checkpoint = run.output.join("checkpoint-000002");
    let tensors = checkpoint.join("optimizer.safetensors");
    let mut bytes = fs::read(&tensors).expect("tensors");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&tensors, bytes).expect("other tensors");
    let again = place.run("again", &["training.checkpoint_every=2"], Some(checkpoint));
    let error = execute(&again, None).0.expect_err("a damaged checkpoint");
    format!("[{}] {error}", error.code())
}

fn other_rows() -> String {
    let place = Place::new();
    let mut runs = [0, 1].map(|rank| place.run(&format!("{rank}"), &["training.gradient_accumulation=2"], None));
    runs[1].train = place.path("others.jsonl");
    fs::write(&runs[1].train, conversations(11)).expect("rows");
    let error = execute_together(&runs, None).remove(0).0.expect_err("workers that do not agree");
    format!("[{}] {error}", error.code())
}

/// The programs that it starts do not lie beside it.
fn quickstart_alone() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let alone = folder.path().join("qlora-ctl");
    fs::copy(binary("qlora-ctl"), &alone).expect("a copy");
    said(Command::new(alone).arg("quickstart").arg("--dir").arg(folder.path().join("quickstart")))
}

#[test]
fn each_case_prints_its_code() {
    let wrong: Vec<String> = CASES
        .iter()
        .filter_map(|(code, provoke)| {
            let text = provoke();
            (!text.contains(&format!("[{code}]"))).then(|| format!("{code}: {text}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the repository").to_owned()
}

/// All that tests say: files in folders called `tests`, what stands behind `#[cfg(test)]`, and configurations that must fail.
fn tests_of(folder: &Path, found: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !["target", ".git", "node_modules"].contains(&name.as_str()) {
            tests_of(&path, found);
        } else if name.ends_with(".rs") || path.parent().is_some_and(|folder| folder.ends_with("invalid")) {
            let text = fs::read_to_string(&path).expect("text");
            let is_test = path.components().any(|part| part.as_os_str() == "tests") || !name.ends_with(".rs");
            let behind = text.split_once("#[cfg(test)]").map_or("", |(_, behind)| behind);
            found.push_str(if is_test { &text } else { behind });
        }
    }
}

#[test]
fn every_code_of_the_catalogue_has_a_case() {
    let page = fs::read_to_string(repository().join("docs/reference/errors.md")).expect("the catalogue");
    let listed: BTreeSet<&str> = page.lines().filter_map(|line| line.strip_prefix("| ")?.get(..5)).collect();
    let listed: BTreeSet<&str> = listed.into_iter().filter(|code| code.starts_with("Q0")).collect();
    assert!(listed.len() > 40, "{listed:?}");
    let mut tests = String::new();
    tests_of(&repository(), &mut tests);
    let missing: Vec<_> = listed.iter().filter(|code| !tests.contains(**code)).collect();
    assert!(missing.is_empty(), "no test provokes {missing:?}");
    let gone: Vec<_> = CASES.iter().map(|(code, _)| code).chain(UNREACHABLE.iter().map(|(code, _)| code)).collect();
    assert!(gone.iter().all(|code| listed.contains(**code)), "a case of no code: {gone:?}");
}
