//! The name under which an export is written, and how it gets its final one.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use crate::{Error, Result};

/// Tells this process from others, also from those that share the disk and not the machine.
static OWN: LazyLock<String> =
    LazyLock::new(|| format!("{}-{:08x}", std::process::id(), RandomState::new().build_hasher().finish() as u32));

/// The name under which this process writes `out` until it is complete.
pub(super) fn partial_of(out: &Path) -> PathBuf {
    let mut name = out.as_os_str().to_owned();
    name.push(format!(".{}.partial", *OWN));
    name.into()
}

/// What other processes have begun for `out` and not completed: they are at work, or were ended.
pub fn begun_by_others(out: &Path) -> Vec<PathBuf> {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let text = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (name, own) = (text(out), text(&partial_of(out)));
    let is_begun = |path: &PathBuf| {
        let found = text(path);
        let middle = found.strip_prefix(&name).and_then(|rest| rest.strip_suffix(".partial"));
        found != own && middle.is_some_and(|middle| middle.is_empty() || middle.starts_with('.'))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<PathBuf> = entries.filter(is_begun).collect();
    found.sort();
    found
}

/// Gives what is complete the name `out`, unless something has it already.
///
/// # Errors
/// Another process was faster, or the system refuses.
pub(super) fn publish(partial: &Path, out: &Path) -> Result<()> {
    match renameat_with(CWD, partial, CWD, out, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST | Errno::NOTEMPTY) => Err(present(out)),
        // Some file systems cannot look and rename in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !out.exists() => {
            fs::rename(partial, out).map_err(Error::io(out))
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Err(present(out)),
        Err(e) if std::io::Error::from(e).kind() == ErrorKind::AlreadyExists => Err(present(out)),
        Err(e) => Err(Error::io(out)(e.into())),
    }
}

/// The refusal of a name that something has.
pub(super) fn present(out: &Path) -> Error {
    Error::Export { path: out.into(), fault: "exists already; name another".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_begun_is_found_and_nothing_else() {
        let home = tempfile::tempdir().expect("a folder");
        let out = home.path().join("m");
        assert!(begun_by_others(&out).is_empty());
        for name in ["m.17-0badcafe.partial", "m.partial", "m.gguf", "mm.1-2.partial", "m.1-2.partial.txt"] {
            fs::write(home.path().join(name), "").expect("a file");
        }
        fs::create_dir(partial_of(&out)).expect("a folder");
        let names: Vec<_> = begun_by_others(&out).iter().map(|path| path.file_name().map(ToOwned::to_owned)).collect();
        assert_eq!(names, ["m.17-0badcafe.partial", "m.partial"].map(|name| Some(name.into())));
    }

    #[test]
    fn what_has_the_name_keeps_it_be_it_a_file_or_a_folder() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        for (name, is_folder) in [("model.gguf", false), ("model", true)] {
            let (out, partial) = (at(name), partial_of(&at(name)));
            let make = |path: &Path, text: &str| {
                let file = if is_folder { path.join("config.json") } else { path.to_owned() };
                fs::create_dir_all(file.parent().expect("a parent")).expect("a folder");
                fs::write(file, text).expect("a file");
            };
            let read = || fs::read_to_string(if is_folder { out.join("config.json") } else { out.clone() });
            make(&partial, "first");
            publish(&partial, &out).expect("a free name");
            make(&partial, "second");
            let refused = publish(&partial, &out).expect_err("the name was taken").to_string();
            assert!(refused.contains("exists already") && refused.contains(name), "{refused}");
            assert_eq!(read().expect("a file"), "first");
            assert!(partial.exists(), "it is left to whoever wrote it");
        }
        // An empty folder is somebody's too.
        let (out, partial) = (at("empty"), partial_of(&at("empty")));
        fs::create_dir_all(&out).and_then(|()| fs::create_dir_all(&partial)).expect("folders");
        assert!(publish(&partial, &out).is_err());
    }
}
