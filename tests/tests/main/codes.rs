//! Every error code of the catalogue is provoked here, by whatever a person does to see it.

use std::collections::HashMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use candle_core::{DType, Device, Tensor};
use qlora_codes::Code;
use qlora_config::ResolvedConfig;
use qlora_tests::modules::sources;
use qlora_tests::repository::root;
use qlora_tests::{
    Postgres, World, binary, conversations, forget_settings, launch, tiny_model, wait_until,
};
use sqlx::Connection;

use crate::interrupted::ended_export;
use crate::runs::group::execute_together;
use crate::runs::place::{Place, execute};
use crate::tls::tls_to_a_plain_server;

/// A code, and what brings a program to print it: what it printed.
type Case = (&'static str, fn() -> String);

const CASES: &[Case] = &[
    ("Q0001", || program("qlora-ctl", &["explain", "nonsense"])),
    ("Q0100", || config("model: {base: x}\n\tdata: y\n", &[])),
    ("Q0101", || {
        config(&format!("{VALID}lora: {{rnk: 8}}\n"), &[])
    }),
    ("Q0102", || {
        ResolvedConfig::from_json("{}")
            .expect_err("a configuration without keys")
            .to_string()
    }),
    ("Q0103", || {
        config(&format!("{VALID}training: {{max_steps: 0}}\n"), &[])
    }),
    ("Q0104", || config(VALID, &["--set", "lora.r"])),
    ("Q0105", || config(&format!("{VALID}extends: h200\n"), &[])),
    ("Q0106", || config("extends: cpu\n", &[])),
    ("Q0107", || {
        config(&format!("{VALID}training: {{schedule: sine}}\n"), &[])
    }),
    ("Q0108", || {
        config(&format!("{VALID}lora: {{r: many}}\n"), &[])
    }),
    ("Q0109", || {
        config(
            &format!("{VALID}training: {{max_steps: 3, epochs: 1}}\n"),
            &[],
        )
    }),
    ("Q0203", no_conversation),
    ("Q0204", broken_template),
    ("Q0205", unread_key),
    ("Q0301", || config(VALID, &["plan", "--memory", "0.0001"])),
    ("Q0302", || {
        config(VALID, &["--set", "model.base=no-such-model"])
    }),
    ("Q0303", || {
        program(
            "qlora-worker",
            &[
                "--once",
                "--device",
                if cfg!(target_os = "macos") {
                    "cuda"
                } else {
                    "metal"
                },
            ],
        )
    }),
    ("Q0304", || device_says("CUDA_ERROR_OUT_OF_MEMORY")),
    ("Q0401", || {
        program("qlora-ctl", &["--coordinator", "127.0.0.1:1", "jobs"])
    }),
    ("Q0402", || {
        program("qlora-ctl", &["--coordinator", "not an address", "jobs"])
    }),
    ("Q0403", || World::new(&[]).ctl(&["show", "77"]).stderr),
    ("Q0404", || {
        World::new(&[])
            .ctl_with(&["jobs"], &[("QLORA_TOKEN", "another-secret-of-length")])
            .stderr
    }),
    ("Q0405", taken_address),
    ("Q0407", short_token),
    ("Q0408", no_home),
    ("Q0409", shared_state),
    ("Q0410", unreadable_job),
    ("Q0411", || {
        let missing = "/nowhere/at/all";
        coordinator(|_| (), &["--tls-cert", missing, "--tls-key", missing], &[])
    }),
    ("Q0412", tls_to_a_plain_server),
    ("Q0413", || {
        let args = ["--listen", "0.0.0.0:0", "--state-dir", "/nowhere/at/all"];
        program("qlora-coordinator", &args)
    }),
    ("Q0421", || {
        coordinator(|_| (), &["--database", "mysql://me:secret@host/jobs"], &[])
    }),
    ("Q0422", lost_leadership),
    ("Q0501", failed_job),
    ("Q0503", cancelled_job),
    ("Q0504", job_without_worker),
    ("Q0511", || {
        model(|folder| fs::remove_file(folder.join("config.json")).expect("no configuration"))
    }),
    ("Q0512", no_adapter),
    ("Q0513", damaged_checkpoint),
    ("Q0514", || with_model(&["convert", "--out", "."], |_| ())),
    ("Q0515", weights_without_bounds),
    ("Q0516", other_rows),
    ("Q0517", impossible_product),
    ("Q0518", || model(other_architecture)),
    ("Q0601", || {
        coordinator(
            |state| fs::write(state, "no folder").expect("a file"),
            &[],
            &[],
        )
    }),
    ("Q0602", || coordinator(artifacts_are_a_file, &[], &[])),
    ("Q0603", || {
        coordinator(|_| (), &[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[")])
    }),
    ("Q0604", || {
        coordinator(|_| (), &["--address-file", "/nowhere/at/all"], &[])
    }),
    ("Q0605", || {
        program("qlora-ctl", &["config", "check", "/nowhere/at/all.yaml"])
    }),
    ("Q0606", quickstart_alone),
    ("Q0607", full_disk),
    ("Q0608", ended_export),
];

/// A configuration that is valid on every machine.
const VALID: &str = "model: {base: smollm2-135m-instruct}\ndata: {train: rows.jsonl}\n";

/// What `config check` says of a file with `text`, or the command that `args` begin with.
fn config(text: &str, args: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("rows.jsonl"), conversations(2)).expect("rows");
    fs::write(folder.path().join("f.yaml"), text).expect("a file");
    let (command, args) = match args.split_first() {
        Some((command, rest)) if !command.starts_with('-') => (vec![*command], rest),
        _ => (vec!["config", "check"], args),
    };
    let mut program = launch("qlora-ctl");
    program
        .args(command)
        .arg("f.yaml")
        .args(args)
        .current_dir(folder.path());
    text_of(program.stdin(Stdio::null()).output().expect("qlora-ctl"))
}

fn text_of(output: Output) -> String {
    [output.stdout, output.stderr]
        .map(|text| String::from_utf8_lossy(&text).into_owned())
        .concat()
}

/// What `qlora-worker` says of a small model that `damage` was done to.
fn with_model(args: &[&str], damage: fn(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    damage(&tiny_model(folder.path()));
    fs::write(folder.path().join("eval.jsonl"), conversations(2)).expect("rows");
    let mut command = launch("qlora-worker");
    said(
        command
            .args(args)
            .args(["--model", "tiny"])
            .current_dir(folder.path()),
    )
}

/// What `model shape` says of a small model that `damage` was done to.
fn model(damage: fn(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    damage(&tiny_model(folder.path()));
    program(
        "qlora-worker",
        &[
            "model",
            "shape",
            &folder.path().join("tiny").to_string_lossy(),
        ],
    )
}

fn other_architecture(folder: &Path) {
    let path = folder.join("config.json");
    let text = fs::read_to_string(&path)
        .expect("a configuration")
        .replace("\"llama\"", "\"mamba\"");
    fs::write(path, text).expect("a configuration");
}

fn no_adapter() -> String {
    with_model(&["score", "--data", "eval.jsonl", "--adapter", "."], |_| ())
}

/// Weights that are finite, with results that are not.
fn weights_without_bounds() -> String {
    with_model(&["score", "--data", "eval.jsonl"], |folder| {
        let path = folder.join("model.safetensors");
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).expect("weights");
        let huge = tensors.into_iter().map(|(name, tensor)| {
            let factor = if name.contains("norm") { 1e30 } else { 1.0 };
            (name, (tensor * factor).expect("a product"))
        });
        candle_core::safetensors::save(&huge.collect::<HashMap<_, _>>(), &path).expect("weights");
    })
}

/// No CPU runs out of memory with an error; the trainer reads this one in the words of the
/// driver.
fn device_says(text: &str) -> String {
    coded(&candle_core::Error::Msg(text.into()).into())
}

/// A product that no device computes, as its own error reaches the trainer.
fn impossible_product() -> String {
    let matrix =
        |rows: usize| Tensor::zeros((rows, 3), DType::F32, &Device::Cpu).expect("a matrix");
    coded(
        &matrix(2)
            .matmul(&matrix(2))
            .expect_err("a product of shapes that do not fit")
            .into(),
    )
}

fn coded(error: &qlora_trainer::Error) -> String {
    format!("[{}] {error}", error.code())
}

fn unread_key() -> String {
    let world = World::new(&[]);
    let rows = conversations(2).replacen('{', "{\"sorce\": 1, ", 1);
    fs::write(world.path("train.jsonl"), rows).expect("rows");
    world
        .ctl(&["submit", &world.config("").to_string_lossy()])
        .stderr
}

fn full_disk() -> String {
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut command = launch("qlora-ctl");
    let output = command
        .args(["explain", "Q0001"])
        .stdout(full)
        .output()
        .expect("qlora-ctl");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn said(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("a program that runs");
    assert!(!output.status.success(), "it succeeded: {command:?}");
    text_of(output)
}

fn program(name: &str, args: &[&str]) -> String {
    said(launch(name).args(args))
}

/// A coordinator that cannot start, in a state folder that `prepare` was given.
fn coordinator(prepare: fn(&Path), args: &[&str], env: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state");
    prepare(&state);
    let mut command = launch("qlora-coordinator");
    command
        .arg("--state-dir")
        .arg(&state)
        .args(["--listen", "127.0.0.1:0"])
        .args(args);
    said(command.envs(env.iter().copied()))
}

fn lost_leadership() -> String {
    let server = Postgres::start();
    let mut world = World::new(&["--database", &server.database("jobs")]);
    server.stop();
    world.coordinator.exit_code();
    world.coordinator.log()
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
    world
        .ctl(&[
            "submit",
            &config,
            "--set",
            &format!("data.train={}", rows.display()),
        ])
        .stderr
}

fn broken_template() -> String {
    let place = Place::new();
    fs::write(place.model.join("chat_template.jinja"), "{% if %}").expect("a template");
    let error = execute(&place.run("broken", &[], None), None)
        .0
        .expect_err("a run without a template");
    format!("[{}] {error}", error.code())
}

fn taken_address() -> String {
    let taken = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = taken.local_addr().expect("an address").to_string();
    let state = tempfile::tempdir().expect("a folder");
    let state = state.path().to_string_lossy();
    program(
        "qlora-coordinator",
        &["--listen", &address, "--state-dir", &state],
    )
}

fn short_token() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, "short\n").expect("a token");
    let state = folder.path().join("state");
    program(
        "qlora-coordinator",
        &[
            "--token-file",
            &file.to_string_lossy(),
            "--state-dir",
            &state.to_string_lossy(),
            "--listen",
            "127.0.0.1:0",
        ],
    )
}

fn no_home() -> String {
    said(
        launch("qlora-coordinator")
            .env_clear()
            .args(["--listen", "127.0.0.1:0"]),
    )
}

fn shared_state() -> String {
    let mut world = World::new(&[]);
    let first = world.worker("a", &[]);
    wait_until("a worker", || {
        Some(()).filter(|()| first.log().contains("registered"))
    });
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
        let mut connection = sqlx::SqliteConnection::connect_with(&options)
            .await
            .expect("a database");
        sqlx::raw_sql("UPDATE jobs SET body = 'x'")
            .execute(&mut connection)
            .await
            .expect("a change");
        connection.close().await.expect("an end");
    };
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(damage);
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
    let mut runs = [0, 1].map(|rank| {
        place.run(
            &format!("{rank}"),
            &["training.gradient_accumulation=2"],
            None,
        )
    });
    runs[1].train = place.path("others.jsonl");
    fs::write(&runs[1].train, conversations(11)).expect("rows");
    let error = execute_together(&runs, None)
        .remove(0)
        .0
        .expect_err("workers that do not agree");
    format!("[{}] {error}", error.code())
}

/// The programs that it starts do not lie beside it.
fn quickstart_alone() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let alone = folder.path().join("qlora-ctl");
    // A copy that another thread's new process has inherited open for writing cannot be started.
    let program = binary("qlora-ctl");
    fs::hard_link(&program, &alone)
        .or_else(|_| fs::copy(&program, &alone).map(drop))
        .expect("a link or a copy");
    let mut command = Command::new(alone);
    forget_settings(&mut command);
    let made = folder.path().join("quickstart");
    said(command.arg("quickstart").arg("--dir").arg(made))
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

#[test]
fn every_code_has_a_case() {
    let cases = CASES.iter().map(|(code, _)| *code);
    assert!(cases.eq(Code::ALL.iter().map(|code| code.id())));
}

#[test]
fn explain_prints_every_code_with_its_meaning() {
    for code in Code::ALL {
        let answer = launch("qlora-ctl")
            .args(["explain", &code.id().to_lowercase()])
            .output()
            .expect("qlora-ctl");
        assert_eq!(
            String::from_utf8_lossy(&answer.stdout),
            format!("{code}: {}\n", code.meaning())
        );
    }
}

/// Codes that the program of `source` writes as text, not as a [`Code`]; comments and tests may.
fn written(source: &str) -> Vec<&str> {
    let program = source
        .split_once("#[cfg(test)]\nmod tests {")
        .map_or(source, |(program, _)| program);
    let lines = program
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.match_indices("Q0").map(move |(at, _)| &line[at..]))
        .filter_map(|found| found.get(..5))
        .filter(|found| found[1..].bytes().all(|b| b.is_ascii_digit()))
        .collect()
}

#[test]
fn only_the_crate_of_the_codes_writes_one_as_text() {
    let mut files = 0;
    for folder in ["configs", "coordinator", "worker", "proto"] {
        let all = sources(&root().join(folder));
        let program = all.iter().filter(|path| {
            let inner = path.strip_prefix(root()).expect("a source");
            !inner.starts_with("configs/codes")
                && !inner
                    .iter()
                    .any(|part| part == "tests" || part == "tests.rs")
        });
        for path in program {
            let source = fs::read_to_string(path).expect("a source");
            assert_eq!(written(&source), [""; 0], "{}", path.display());
            files += 1;
        }
    }
    assert!(files > 300, "only {files} files are seen");
}

#[test]
fn a_code_that_is_written_as_text_is_noticed() {
    let source = "//! Q0101\nfn code() -> &str {\n    // Q0102\n    \"Q0103\"\n}\n#[error(\"error[Q0104]: Q0 Q01x5\")]\n#[cfg(test)]\nmod tests {\n    \"Q0106\"\n}\n";
    assert_eq!(written(source), ["Q0103", "Q0104"]);
}
