//! The commands of README and docs, run as they are written; of a block of a console, what they
//! print as well. A block of what cannot run here says why in the line that opens it:
//! `sh not-run="needs a GPU"`. The programs' own tests hold those, too, against their argument
//! parsers.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use qlora_testkit::documented::{Documented, sessions, shell};
use qlora_tests::repository::root;
use qlora_tests::{World, binary, conversations, forget_settings, launch, wait_until};

/// What a call needs to be small and to find its model here; later settings override what is
/// written.
const SMALL: &str = "--set training.max_steps=1 --set training.eval_rows=1 --set resources.device=cpu \
    --set training.flash_attention=off --set model.quantization=nf4 --set data.max_seq_len=1000 --set model.base=TINY";

/// A folder in which the commands can be typed: the repository's configurations, rows, a model, and
/// a coordinator with a worker.
struct Place {
    world: World,
    started: usize,
}

impl Place {
    fn new() -> Self {
        let world = World::new(&[]);
        let configs = world.path("configs");
        fs::create_dir_all(&configs).expect("a folder");
        for name in ["training_config_h100.yaml", "training_config_m4.yaml"] {
            fs::copy(root().join("configs").join(name), configs.join(name))
                .expect("a configuration");
        }
        let guide =
            fs::read_to_string(root().join("docs/TRAINING_QUICKSTART.md")).expect("the guide");
        let written = guide
            .split("```yaml\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        fs::write(
            world.path("config.yaml"),
            written.expect("the guide's configuration"),
        )
        .expect("a file");
        let rows: Vec<String> = conversations(12).lines().map(str::to_owned).collect();
        fs::write(world.path("train.jsonl"), unlike(&rows, "in town")).expect("rows");
        fs::write(world.path("eval.jsonl"), unlike(&rows[..2], "at sea")).expect("rows");
        fs::create_dir_all(world.path("home")).expect("a folder");
        Self { world, started: 0 }
    }

    /// The command with what stands for something else filled in.
    fn filled(&self, text: &str) -> String {
        let tiny = self.world.path("tiny").display().to_string();
        let small = SMALL.replace("TINY", &tiny);
        let mut text = text.replace(
            "cargo build --release && target/release/qlora-ctl quickstart",
            &format!("qlora-ctl quickstart --dir first {small}"),
        );
        if text.starts_with("qlora-ctl submit") {
            text = format!("{text} {small}");
        }
        for (from, to) in [
            ("target/release/", ""),
            ("0.0.0.0:7070", "0.0.0.0:0"),
            ("127.0.0.1:7070", self.world.address.as_str()),
            ("COORDINATOR:7070", self.world.address.as_str()),
            (
                "--coordinator ADDR",
                &format!("--coordinator {}", self.world.address),
            ),
            ("--model smollm2-135m-instruct", &format!("--model {tiny}")),
            ("--model BASE", &format!("--model {tiny}")),
            ("--model CKPT/smollm135m", &format!("--model {tiny}")),
            ("--model CKPT/stories15m", &format!("--model {tiny}")),
            ("eval JOB", "eval 1"),
        ] {
            text = text.replace(from, to);
        }
        text
    }

    fn command(&self, text: &str) -> Command {
        let folder = binary("qlora-ctl").parent().expect("a folder").to_owned();
        let path = format!(
            "{}:{}",
            folder.display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut command = Command::new("sh");
        forget_settings(&mut command);
        // A shell that becomes the program is ended with it.
        command
            .arg("-c")
            .arg(text)
            .current_dir(self.world.folder.path())
            .env("PATH", path);
        command
            .env("HOME", self.world.path("home"))
            .env("QLORA_URL", &self.world.address)
            .stdin(Stdio::null());
        // Another home than the coordinator's, where its token would be found.
        command.env("QLORA_TOKEN_FILE", self.world.path("state/token"));
        command
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_CACHE_HOME");
        command
    }

    /// Runs a command to its end, which must be a good one.
    fn run(&self, place: &str, text: &str) {
        let output = self.command(text).output().expect("a shell");
        let said = [output.stdout, output.stderr]
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(
            output.status.success(),
            "{place}: {text}\n{}\n{}",
            said[0],
            said[1]
        );
    }

    /// Starts a program that goes on, waits until it serves, and stops it.
    fn serve(&mut self, place: &str, text: &str) {
        self.started += 1;
        let log = self.world.path(&format!("served-{}.log", self.started));
        let file = fs::File::create(&log).expect("a log");
        let mut command = self.command(&format!("exec {}", text.trim_end_matches('&').trim()));
        let mut child = command
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            .spawn()
            .expect("a shell");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        let serves = wait_until(&format!("{place}: {text}"), || {
            let serves = said().contains("serving") || said().contains("registered");
            let ended = child.try_wait().expect("a status").is_some();
            (serves || ended).then_some(serves)
        });
        let _ = child.kill();
        let _ = child.wait();
        assert!(serves, "{place}: {text}\n{}", said());
    }

    /// Runs or starts what one line of a document says.
    fn perform(&mut self, documented: &Documented) {
        let Documented { place, text, .. } = documented;
        let text = self.filled(text);
        let number = self.started;
        match text.split_whitespace().next().unwrap_or_default() {
            // What is prepared is for the coordinator of the next line.
            "qlora-coordinator" if is_subcommand(&text) => {
                self.run(place, &format!("{text} --state-dir coordinator-{number}"));
            }
            "qlora-coordinator" => {
                let text = text.trim_end_matches('&');
                let listen = if text.contains("--listen") {
                    ""
                } else {
                    "--listen 127.0.0.1:0"
                };
                self.serve(
                    place,
                    &format!("{text} {listen} --state-dir coordinator-{number}"),
                );
            }
            "qlora-worker" if !is_subcommand(&text) => {
                let text = text.trim_end_matches('&');
                let own = format!(
                    "--name documented-{number} --state-dir documented-{number} --device cpu"
                );
                self.serve(place, &format!("{text} {own}"));
            }
            _ => self.run(place, &text),
        }
    }
}

/// Rows with questions of their own, so that nothing held out is trained on.
fn unlike(rows: &[String], ending: &str) -> String {
    let own =
        |(i, row): (usize, &String)| row.replace(" days?", &format!(" days {ending} {i}?")) + "\n";
    rows.iter().enumerate().map(own).collect()
}

/// Whether a program that serves is asked for something else.
fn is_subcommand(text: &str) -> bool {
    text.split_whitespace()
        .nth(1)
        .is_some_and(|word| !word.starts_with('-') && word != "&")
}

#[test]
fn every_command_of_the_documents_runs() {
    let mut place = Place::new();
    let _worker = place.world.worker("worker", &[]);
    let commands = shell(&root()).into_iter();
    // The programs' own tests hold what is not run.
    let mut commands: Vec<Documented> = commands.filter(|c| c.not_run.is_none()).collect();
    // The guide's job is job 1.
    commands.sort_by_key(|command| !command.place.starts_with("docs/TRAINING_QUICKSTART.md"));
    assert!(
        commands.len() > 25,
        "only {} commands were found",
        commands.len()
    );
    for command in commands {
        if command.text.starts_with("export ") {
            place.run(&command.place, &command.text);
        } else {
            place.perform(&command);
        }
    }
}

#[test]
fn every_session_of_the_documents_is_what_a_console_shows() {
    let place = Place::new();
    let sessions = sessions(&root());
    let sessions = sessions.iter().filter(|session| session.not_run.is_none());
    let mut commands = 0;
    for session in sessions {
        let output = place.command(&session.script()).output().expect("a shell");
        let shown = String::from_utf8_lossy(&output.stdout);
        assert_eq!(shown, session.text, "{}", session.place);
        commands += session.commands().count();
    }
    assert!(commands >= 4, "only {commands} commands were found");
}

#[test]
fn every_reason_for_not_running_a_block_is_told() {
    let commands = shell(&root());
    let reasons: BTreeSet<&str> = commands
        .iter()
        .filter_map(|command| command.not_run.as_deref())
        .collect();
    assert!(reasons.contains("needs a GPU"), "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.len() > 5), "{reasons:?}");
}

/// The overview names no command and no option that its program does not have.
#[test]
fn the_overview_of_commands_is_that_of_the_programs() {
    let page = fs::read_to_string(root().join("docs/reference/cli.md")).expect("the overview");
    let mut seen = 0;
    for row in page.lines().filter(|line| line.starts_with("| `")) {
        let row = row.replace("\\|", "/");
        let Some(calls) = row.split('|').nth(1) else {
            continue;
        };
        for call in calls
            .split('`')
            .filter(|call| call.starts_with(|c: char| c.is_ascii_lowercase()))
        {
            let words: Vec<&str> = call.split_whitespace().collect();
            let plain = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            let commands: Vec<&str> = words
                .iter()
                .take(2)
                .take_while(|word| plain(word))
                .copied()
                .collect();
            let output = launch("qlora-ctl")
                .args(&commands)
                .arg("--help")
                .output()
                .expect("qlora-ctl");
            let help = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(
                output.status.success(),
                "{commands:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let options = words
                .iter()
                .flat_map(|word| word.trim_matches(['[', ']']).split('/'));
            for option in options.filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{commands:?} has no {option}");
            }
            seen += 1;
        }
    }
    assert!(seen >= 15, "only {seen} calls were found");
}
