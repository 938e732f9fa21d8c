//! An artifact of a job: which one is meant, and its way into a folder.

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::transfer::Caller;
use qlora_client::{console, transfer};
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
    refuse_existing(folder)?;
    let archive = beside(folder, &artifact.digest, "tar");
    let bar = if context.draws() {
        ProgressBar::new(artifact.size)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
    {
        bar.set_style(style);
    }
    bar.set_message(console::line(&artifact.name).into_owned());
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

/// A folder that is there already stays as it is.
pub fn refuse_existing(folder: &Path) -> Result<(), CtlError> {
    if folder.exists() {
        return Err(CtlError::Usage {
            message: format!("{} exists already", folder.display()),
            help: "give --output FOLDER".into(),
        });
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
