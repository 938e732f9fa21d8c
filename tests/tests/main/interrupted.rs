//! Exports that are interrupted, killed and begun again: nothing half is left, and nothing of
//! others is touched.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use candle_core::{DType, Device, Tensor};
use qlora_tests::{forget_settings, launch, tiny_model, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::first_hour_ctl::ignores;

/// Rows of the tables of a model that takes a while to write.
const MANY: usize = 400_000;

struct Place {
    home: TempDir,
    model: PathBuf,
}

/// An export that stands still in the middle.
struct Halted {
    child: Child,
    partial: PathBuf,
}

impl Place {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a folder");
        let model = tiny_model(home.path());
        let path = model.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("a configuration"))
                .expect("JSON");
        config["vocab_size"] = MANY.into();
        fs::write(path, config.to_string()).expect("a configuration");
        let path = model.join("model.safetensors");
        let mut tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(&path, &Device::Cpu).expect("weights");
        for name in ["model.embed_tokens.weight", "lm_head.weight"] {
            let hidden = tensors[name].dims()[1];
            tensors.insert(
                name.into(),
                Tensor::ones((MANY, hidden), DType::F32, &Device::Cpu).expect("a table"),
            );
        }
        candle_core::safetensors::save(&tensors, path).expect("weights");
        Self { home, model }
    }

    fn convert(&self, out: &str) -> Command {
        let mut command = launch("qlora-worker");
        command
            .args(["convert", "--model"])
            .arg(&self.model)
            .arg("--out")
            .arg(self.home.path().join(out));
        if out.ends_with(".gguf") {
            command.args(["--type", "f32"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The same as `nohup` starts it.
    fn convert_under_nohup(&self, out: &str) -> Command {
        let plain = self.convert(out);
        let mut command = Command::new("sh");
        forget_settings(&mut command);
        command
            .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
            .arg(plain.get_program())
            .args(plain.get_args());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// What is begun under the name `out`.
    fn begun(&self, out: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.home.path())
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path());
        let is_begun = |path: &PathBuf| {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            name.starts_with(&format!("{out}.")) && name.ends_with(".partial")
        };
        entries.filter(is_begun).collect()
    }

    fn halted(&self, out: &str) -> Halted {
        self.halted_as(out, self.convert(out))
    }

    fn halted_as(&self, out: &str, mut command: Command) -> Halted {
        let before = self.begun(out);
        let child = command.spawn().expect("qlora-worker runs");
        let partial = wait_until("a begun export", || {
            self.begun(out)
                .into_iter()
                .find(|path| !before.contains(path) && is_locked(path))
        });
        signal(&child, Signal::STOP);
        assert!(partial.exists(), "it was complete before it was halted");
        Halted { child, partial }
    }
}

/// Whether a process writes what lies at `path`: until it has its lock, others take it for left.
fn is_locked(path: &Path) -> bool {
    let file = fs::File::open(path);
    file.is_ok_and(|file| matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)))
}

impl Halted {
    fn ended_by(self, signals: &[Signal]) -> Output {
        signals.iter().for_each(|given| signal(&self.child, *given));
        self.child.wait_with_output().expect("an end")
    }
}

fn signal(child: &Child, given: Signal) {
    kill_process(Pid::from_child(child), given).expect("the export runs");
}

/// What an export says that a signal ends.
pub fn ended_export() -> String {
    said(
        &Place::new()
            .halted("m.gguf")
            .ended_by(&[Signal::TERM, Signal::CONT]),
    )
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_export_that_a_signal_ends_leaves_nothing() {
    let place = Place::new();
    for (out, given) in [
        ("m.gguf", Signal::TERM),
        ("m.gguf", Signal::INT),
        ("folder", Signal::TERM),
        ("folder", Signal::HUP),
    ] {
        // Whoever runs the tests in the background may have them, and what they start, ignore it.
        if ignores(std::process::id(), given) {
            continue;
        }
        let output = place.halted(out).ended_by(&[given, Signal::CONT]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(130), "{given:?}: {said}");
        assert!(
            said.contains("error[Q0608]: interrupted") && said.contains(out),
            "{said}"
        );
        assert!(
            place.begun(out).is_empty() && !place.home.path().join(out).exists(),
            "{out} {given:?}"
        );
    }
}

#[test]
fn an_export_goes_on_through_a_signal_that_it_was_started_to_ignore() {
    let place = Place::new();
    for (out, rest, code) in [
        ("m.gguf", &[Signal::CONT][..], 0),
        ("folder", &[Signal::CONT][..], 0),
        ("n.gguf", &[Signal::TERM, Signal::CONT][..], 130),
    ] {
        let export = place.halted_as(out, place.convert_under_nohup(out));
        let output = export.ended_by(&[&[Signal::HUP], rest].concat());
        assert_eq!(output.status.code(), Some(code), "{out}: {}", said(&output));
        assert_eq!(place.home.path().join(out).exists(), code == 0, "{out}");
        assert!(place.begun(out).is_empty(), "{out}");
    }
}

#[test]
fn what_a_killed_export_left_is_removed_by_the_next_and_one_at_work_is_left_alone() {
    let place = Place::new();
    for out in ["m.gguf", "folder"] {
        let killed = place.halted(out);
        let left = killed.partial.clone();
        killed.ended_by(&[Signal::KILL]);
        assert!(left.exists(), "a killed process cannot clear up");
        let at_work = place.halted(out);
        assert!(!left.exists(), "it is as large as a model");
        let output = place.convert(out).output().expect("qlora-worker runs");
        let notes = said(&output);
        let partial = at_work
            .partial
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert!(
            output.status.success()
                && notes.contains("is at work or was ended")
                && notes.contains(&partial),
            "{notes}"
        );
        assert!(at_work.partial.exists() && place.home.path().join(out).exists());
        let late = at_work.ended_by(&[Signal::CONT]);
        assert!(
            late.status.code() == Some(3) && said(&late).contains("exists already"),
            "{}",
            said(&late)
        );
        assert!(said(&late).contains("note: removed"), "{}", said(&late));
        assert!(place.begun(out).is_empty(), "{out}");
    }
}
