//! An artifact of a job: which one is meant, and its way into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_client::transfer;
use qlora_client::transfer::Caller;
use qlora_files::Partial;
use qlora_proto::{ArtifactKind, Job, JobArtifact};

use crate::context::Context;
use crate::error::CtlError;

/// The newest artifact of `job` that has the name or the kind `name`; its adapter where none is
/// given.
pub fn choose<'a>(job: &'a Job, name: Option<&str>) -> Result<&'a JobArtifact, CtlError> {
    let wanted = |a: &&JobArtifact| {
        name.map_or(a.is(ArtifactKind::Adapter), |name| {
            a.name == name || a.kind == name
        })
    };
    job.artifacts
        .iter()
        .rev()
        .find(wanted)
        .ok_or_else(|| CtlError::Usage {
            message: format!(
                "job {} has no artifact {}",
                job.id,
                name.unwrap_or(ArtifactKind::Adapter.word())
            ),
            help: format!("qlora-ctl artifacts list {}", job.id),
        })
}

/// Downloads beside `folder`, resuming what an earlier try left, and unpacks.
pub async fn get(context: &Context, artifact: &JobArtifact, folder: &Path) -> Result<(), CtlError> {
    refuse_misplaced(folder)?;
    let archive = beside(folder, &artifact.digest, "tar");
    let bar = context.bar(&artifact.name, artifact.size);
    let moving = bar.clone();
    let result = transfer::download(
        &context.client()?,
        &artifact.digest,
        &archive,
        Caller::Person,
        &move |n| moving.set_position(n),
    )
    .await;
    bar.finish_and_clear();
    result?;
    let partial = Partial::folder(folder).map_err(CtlError::io(folder))?;
    qlora_client::unpack(&archive, partial.path())?;
    partial.publish().map_err(CtlError::io(folder))?;
    fs::remove_file(&archive).map_err(CtlError::io(&archive))
}

/// Refuses, before any work, a folder that is there, and one in a folder that is not.
pub fn refuse_misplaced(folder: &Path) -> Result<(), CtlError> {
    let refused = |message: String, help: &str| {
        Err(CtlError::Usage {
            message,
            help: help.into(),
        })
    };
    if folder.exists() {
        let message = format!("{} exists already", folder.display());
        return refused(message, "give --output FOLDER");
    }
    let parent = folder.parent().unwrap_or(Path::new(""));
    if parent != Path::new("") && !parent.is_dir() {
        let message = format!("there is no folder {}", parent.display());
        return refused(message, "make it, or give another --output");
    }
    Ok(())
}

/// A hidden path beside `folder` for what is not yet complete. It carries the digest, so that a
/// broken transfer goes on only with its own bytes.
pub fn beside(folder: &Path, digest: &str, what: &str) -> PathBuf {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let digest: String = digest.chars().take(12).collect();
    folder.with_file_name(format!(".{name}.{digest}.{what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_to_write_is_new_and_lies_in_one_that_is_there() {
        let home = tempfile::tempdir().expect("a folder");
        let said = |path: &Path| {
            refuse_misplaced(path)
                .err()
                .map(|fault| fault.to_string())
                .unwrap_or_default()
        };
        assert!(said(home.path()).contains("exists already"));
        assert_eq!(said(&home.path().join("new")), "");
        assert_eq!(said(Path::new("a-new-one")), "");
        let (missing, file) = (home.path().join("missing"), home.path().join("file"));
        fs::write(&file, "").expect("a file");
        for parent in [missing, file] {
            let said = said(&parent.join("new"));
            assert_eq!(said, format!("there is no folder {}", parent.display()));
        }
    }
}
