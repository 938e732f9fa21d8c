//! An artifact of a job: which one is meant, and its way into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use qlora_client::{TransferError, transfer};
use qlora_files::Partial;
use qlora_proto::{ArtifactKind, Job, JobArtifact, JobState};

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
            message: none_of(job, name.unwrap_or(ArtifactKind::Adapter.word())),
            help: format!("qlora-ctl artifacts list {}", job.id),
        })
}

fn none_of(job: &Job, what: &str) -> String {
    let id = job.id;
    match job.state() {
        _ if job.artifacts_pruned => {
            format!("job {id} has no artifact {what}: its checkpoints and adapters were deleted")
        }
        JobState::Failed | JobState::Cancelled if job.artifacts.is_empty() => format!(
            "job {id} {} before it made anything: it has no artifact {what}",
            how_it_ended(job)
        ),
        _ => format!("job {id} has no artifact {what}"),
    }
}

/// How a job that is over came to its end.
pub fn how_it_ended(job: &Job) -> &'static str {
    match job.state() {
        JobState::Cancelled => "was cancelled",
        JobState::Failed => "failed",
        _ => "ended",
    }
}

/// What a person gets who asks for an artifact.
pub struct Wanted<'a> {
    pub artifact: &'a JobArtifact,
    /// A checkpoint in the place of the adapter that was never made.
    pub is_fallback: bool,
}

/// The artifact `name` of `job`, or its adapter; of a job that has ended without one, its last
/// checkpoint.
pub fn wanted<'a>(job: &'a Job, name: Option<&str>) -> Result<Wanted<'a>, CtlError> {
    let missing = match choose(job, name) {
        Ok(artifact) => {
            return Ok(Wanted {
                artifact,
                is_fallback: false,
            });
        }
        Err(missing) => missing,
    };
    if name.is_some_and(|name| name != ArtifactKind::Adapter.word()) {
        return Err(missing);
    }
    match choose(job, Some(ArtifactKind::Checkpoint.word())) {
        Ok(artifact) if job.state().is_final() => Ok(Wanted {
            artifact,
            is_fallback: true,
        }),
        Ok(_) => Err(CtlError::Usage {
            message: format!(
                "job {} is {} and has made no adapter yet",
                job.id,
                job.state().word()
            ),
            help: format!(
                "qlora-ctl artifacts get {} checkpoint gets its last checkpoint",
                job.id
            ),
        }),
        Err(_) => Err(missing),
    }
}

/// Downloads beside `folder`, resuming what an earlier try left, and unpacks.
pub async fn get(context: &Context, artifact: &JobArtifact, folder: &Path) -> Result<(), CtlError> {
    refuse_misplaced(folder)?;
    let archive = beside(folder, &artifact.digest, "tar");
    let bar = context.bar(&artifact.name, artifact.size);
    let moving = bar.clone();
    let result = transfer::download(
        &context.client().await?,
        &artifact.digest,
        &archive,
        None,
        &move |n| moving.set_position(n),
    )
    .await;
    bar.finish_and_clear();
    result.map_err(context.transfer_fault())?;
    let partial = Partial::folder(folder).map_err(CtlError::io(folder))?;
    unpack(&archive, partial.path())?;
    partial.publish().map_err(CtlError::io(folder))?;
    fs::remove_file(&archive).map_err(CtlError::io(&archive))
}

/// Unpacks `archive`, which goes where it can never be unpacked: its bytes are those of its digest,
/// and another try would bring the same.
fn unpack(archive: &Path, folder: &Path) -> Result<(), TransferError> {
    let unpacked = qlora_client::unpack(archive, folder);
    let hopeless = match &unpacked {
        Err(TransferError::Archive { .. }) => true,
        // What is no fault of the system is one of the archive.
        Err(TransferError::Io { source, .. }) => source.raw_os_error().is_none(),
        _ => false,
    };
    if hopeless {
        let _ = fs::remove_file(archive);
    }
    unpacked
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
    fn an_archive_that_cannot_be_unpacked_is_not_left_behind_and_one_without_room_is() {
        let home = tempfile::tempdir().expect("a folder");
        let (archive, file) = (home.path().join(".a.tar"), home.path().join("file"));
        fs::write(&archive, [1; 1024]).expect("a file");
        assert!(unpack(&archive, &home.path().join("a")).is_err());
        assert!(!archive.exists());
        // An archive of nothing, and a file where the folder belongs: the system is at fault.
        fs::write(&archive, [0; 1024]).expect("a file");
        fs::write(&file, "").expect("a file");
        assert!(unpack(&archive, &file.join("a")).is_err());
        assert!(archive.exists());
    }

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
