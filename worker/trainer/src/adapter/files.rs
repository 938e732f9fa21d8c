//! The files of an adapter as they are opened: what is wrong with one is a fault of the adapter,
//! not of a model.

use std::io::ErrorKind;
use std::path::Path;

use crate::weights::plain;
use crate::{Error, Result};

/// Refuses what is no plain file under `name` in `folder`; nothing need lie there.
pub(super) fn check(folder: &Path, name: &str) -> Result<()> {
    plain::check(&folder.join(name)).map_err(|e| of_adapter(e, folder, name))
}

/// The text under `name` in `folder`; none where nothing lies there.
pub(super) fn text(folder: &Path, name: &str) -> Result<Option<String>> {
    match plain::text(&folder.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(of_adapter(e, folder, name)),
    }
}

fn of_adapter(error: Error, folder: &Path, name: &str) -> Error {
    match error {
        Error::Model { fault, help, .. } => Error::Adapter {
            path: folder.into(),
            fault: format!("has a {name} that is not usable: {fault}; {help}"),
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_is_none_or_no_text_is_a_fault_of_the_adapter() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        assert!(check(folder, "a.json").is_ok());
        assert_eq!(text(folder, "a.json").expect("nothing"), None);
        fs::write(folder.join("a.json"), "{}").expect("a file");
        assert_eq!(
            text(folder, "a.json").expect("a text").as_deref(),
            Some("{}")
        );
        fs::create_dir(folder.join("folder.json")).expect("a folder");
        fs::write(folder.join("wide.json"), b"{\0}\0").expect("a file");
        for (fault, told) in [
            (check(folder, "folder.json").map(|()| None), "a folder"),
            (text(folder, "folder.json"), "a folder"),
            (text(folder, "wide.json"), "UTF-16"),
        ] {
            let fault = fault.expect_err(told);
            assert_eq!(fault.code().id(), "Q0512", "{fault}");
            assert!(fault.to_string().contains(told), "{fault}");
        }
    }
}
