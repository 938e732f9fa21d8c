//! Files of a model as they are opened, with what a person does about those that are not.

use std::path::Path;

use qlora_data::plain::{self, Unopened};

use crate::{Error, Result};

/// Refuses what is no plain file.
pub(crate) fn check(path: &Path) -> Result<()> {
    match plain::fault(path) {
        Some(fault) => Err(error(path, Unopened::NotPlain(fault))),
        None => Ok(()),
    }
}

/// The text of a file of a model.
///
/// # Errors
/// It is no plain file, or not in UTF-8.
pub(crate) fn text(path: &Path) -> Result<String> {
    plain::text(path).map_err(|fault| error(path, fault))
}

fn error(path: &Path, fault: Unopened) -> Error {
    let (fault, help) = match fault {
        Unopened::NotPlain(fault) => (fault, "put the file itself there, or download it again"),
        Unopened::NotText(fault) => (fault, "save it as UTF-8, or download it again"),
        Unopened::Io(source) => return Error::io(path)(source),
    };
    Error::Model {
        path: path.into(),
        fault: format!("it {fault}"),
        help,
    }
}
