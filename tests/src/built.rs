//! The programs as cargo built them, started without the settings of whoever runs the tests.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Beginnings of variables that set up our programs.
const SETTINGS: [&str; 3] = ["QLORA_", "HF_", "OTEL_"];
/// Those that set up the tests, the emulated GPU and its kernels.
const OF_TESTS: [&str; 3] = ["QLORA_TEST_", "QLORA_EMULATED_", "QLORA_KERNELS"];

/// The program `name` as `cargo build` left it.
///
/// # Panics
/// It is not there, or was built from other sources than there are.
pub fn binary(name: &str) -> PathBuf {
    // Once a program, so that sources may be edited while tests run.
    static LOOKED_AT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let own = std::env::current_exe().expect("a path of this test");
    let folder = own.ancestors().nth(2).expect("target/<profile>");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --release --bins` first",
        path.display()
    );
    let known = LOOKED_AT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .contains(name);
    if !known {
        if let Some(source) = changed_since(&path) {
            panic!(
                "{} is older than {source}: run `cargo build --release --bins` first",
                path.display()
            );
        }
        let mut looked_at = LOOKED_AT.lock().unwrap_or_else(PoisonError::into_inner);
        looked_at.insert(name.to_owned());
    }
    path
}

/// A call of the program `name`, with none of the settings that this process was given.
pub fn launch(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    forget_settings(&mut command);
    command
}

/// As [`launch`], started by the command `through`, which takes a program and its arguments.
pub fn launch_through(through: &[String], name: &str) -> Command {
    let Some((first, rest)) = through.split_first() else {
        return launch(name);
    };
    let mut command = Command::new(first);
    command.args(rest).arg(binary(name));
    forget_settings(&mut command);
    command
}

/// Takes the settings of our programs out of what `command` inherits. Set afterwards what it is to
/// have.
pub fn forget_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if is_setting(&name.to_string_lossy()) {
            command.env_remove(name);
        }
    }
}

fn is_setting(variable: &str) -> bool {
    let begins = |starts: &[&str]| starts.iter().any(|start| variable.starts_with(start));
    begins(&SETTINGS) && !begins(&OF_TESTS)
}

/// A source of `program` that was written or removed after it was linked. Cargo lists the sources
/// beside the program; where it was copied to without that list, nothing is known.
fn changed_since(program: &Path) -> Option<String> {
    let list = fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let written = |path: &Path| fs::metadata(path).and_then(|m| m.modified());
    let linked = written(program).expect("the time of a program");
    // Spaces of a name stand behind a backslash.
    let sources = sources.trim().replace("\\ ", "\0");
    let mut sources = sources.split(' ').map(|source| source.replace('\0', " "));
    sources.find(|source| {
        let path = Path::new(source);
        !path.is_dir() && written(path).is_ok_and(|time| time > linked) || !path.exists()
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn settings_are_not_those_of_tests() {
        for name in [
            "QLORA_TOKEN",
            "QLORA__LORA__R",
            "HF_TOKEN",
            "OTEL_SERVICE_NAME",
        ] {
            assert!(is_setting(name), "{name}");
        }
        for name in [
            "QLORA_TEST_DEVICE",
            "QLORA_EMULATED_GPU",
            "QLORA_KERNELS",
            "PATH",
            "HOME",
        ] {
            assert!(!is_setting(name), "{name}");
        }
    }

    #[test]
    fn a_program_is_stale_where_a_source_is_newer_or_gone() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        let (program, source, removed) = (at("program"), at("a source.rs"), at("other.rs"));
        for file in [&program, &source, &removed] {
            fs::write(file, "").expect("a file");
        }
        assert_eq!(changed_since(&program), None, "without a list");
        let escaped = source.display().to_string().replace(' ', "\\ ");
        let list = format!(
            "{}: {escaped} {} {}\n",
            program.display(),
            removed.display(),
            home.path().display()
        );
        fs::write(at("program.d"), list).expect("a list");
        let set = |file: &Path, time: SystemTime| {
            let file = fs::File::options().write(true).open(file).expect("a file");
            file.set_modified(time).expect("a time");
        };
        let now = SystemTime::now();
        let before = now - Duration::from_secs(10);
        set(&program, now);
        set(&source, before);
        set(&removed, before);
        assert_eq!(changed_since(&program), None);
        set(&source, now + Duration::from_secs(10));
        assert_eq!(changed_since(&program), Some(source.display().to_string()));
        set(&source, before);
        fs::remove_file(&removed).expect("a file");
        assert_eq!(changed_since(&program), Some(removed.display().to_string()));
    }
}
