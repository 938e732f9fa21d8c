//! Gives a result its final name, and replaces nothing that already has it. Until then the result
//! has another name, see [`Partial`].

use std::io::ErrorKind;
use std::path::Path;

use super::report::Progress;
use crate::partial::Partial;
use crate::{Error, Result};

/// Makes what is complete, all `tensors` of it, durable and gives it its name, unless something has
/// it already.
pub(super) fn publish(
    partial: Partial,
    out: &Path,
    tensors: usize,
    progress: Progress<'_>,
) -> Result<()> {
    partial.sync().map_err(Error::io(out))?;
    // A disk may take minutes over a model, in which a person may stop it.
    progress(tensors, tensors)?;
    partial.publish().map_err(|e| match e.kind() {
        ErrorKind::AlreadyExists => present(out),
        _ => Error::io(out)(e),
    })
}

/// The refusal of a name that something has.
pub(super) fn present(out: &Path) -> Error {
    Error::Export {
        path: out.into(),
        fault: "exists already; name another".into(),
    }
}
