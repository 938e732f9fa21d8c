//! What the page can do: download an artifact, cancel, pause and resume a job.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Redirect, Response};
use qlora_engine::{Event, JobId};
use qlora_proto::CHUNK_BYTES;
use qlora_store::{ArtifactReader, By, Digest256, JobStore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::refusals::{failed, job_number, not_found};
use super::sessions::Act;
use crate::convert;
use crate::error::CallError;
use crate::services::Services;

/// The reason that is recorded for what a person does here.
const REASON: &str = "by user, on the page";

/// Sends an artifact of a job as a file.
pub async fn download<S: JobStore>(
    State(services): State<Services<S>>,
    Path((id, name)): Path<(String, String)>,
) -> Response {
    let id = match job_number(&id) {
        Ok(id) => id,
        Err(page) => return *page,
    };
    let job = match services.job(id).await {
        Ok(job) => job,
        Err(e) => return failed(&e),
    };
    let Some(artifact) = job
        .artifacts
        .iter()
        .rev()
        .find(|artifact| artifact.name == name)
    else {
        return not_found(format!("job {id} has no artifact {name}"));
    };
    match open(&services, &artifact.digest).await {
        Ok(reader) => file(&format!("job-{id}-{name}"), reader),
        Err(e) => failed(&e),
    }
}

async fn open<S: JobStore>(
    services: &Services<S>,
    digest: &str,
) -> Result<ArtifactReader, CallError> {
    let digest: Digest256 = digest.parse()?;
    Ok(services.artifacts.read(&digest, 0).await?)
}

fn file(name: &str, mut reader: ArtifactReader) -> Response {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || "-_.".contains(c) {
            c
        } else {
            '_'
        }
    };
    let name: String = name.chars().map(plain).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, reader.size.to_string()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let piece = reader.next(CHUNK_BYTES).await;
            let is_failed = piece.is_err();
            if piece.as_ref().is_ok_and(Vec::is_empty) {
                return;
            }
            // A browser that went away wants no more; one that sees the connection break knows that
            // bytes are missing.
            if sender.send(piece).await.is_err() || is_failed {
                return;
            }
        }
    });
    (headers, Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

/// Cancels a job, then redirects to its page. `doors::guard` has refused requests from other
/// origins, and of whoever may only look.
pub async fn cancel<S: JobStore>(
    State(services): State<Services<S>>,
    Path(id): Path<String>,
    Act(caller): Act,
) -> Response {
    let event = |job| Event::Cancel {
        job,
        reason: REASON.into(),
    };
    change(&services, &id, caller.by("cancel"), event).await
}

/// Pauses a job, as [`cancel`] cancels one.
pub async fn pause<S: JobStore>(
    State(services): State<Services<S>>,
    Path(id): Path<String>,
    Act(caller): Act,
) -> Response {
    let event = |job| Event::Pause {
        job,
        reason: REASON.into(),
    };
    change(&services, &id, caller.by("pause"), event).await
}

/// Lets a paused job go on, as [`cancel`] cancels one.
pub async fn resume<S: JobStore>(
    State(services): State<Services<S>>,
    Path(id): Path<String>,
    Act(caller): Act,
) -> Response {
    change(&services, &id, caller.by("resume"), |job| Event::Resume {
        job,
        from: None,
    })
    .await
}

async fn change<S: JobStore>(
    services: &Services<S>,
    id: &str,
    by: By,
    event: impl FnOnce(JobId) -> Event,
) -> Response {
    let id = match job_number(id) {
        Ok(id) => id,
        Err(page) => return *page,
    };
    // A job whose record cannot be read is there, and the engine does not know it: this read tells why.
    if let Err(e) = services.job(id).await {
        return failed(&e);
    }
    let event = event(convert::job_in(id));
    match services.driver.event_by(event, Some(by)).await {
        Ok(_) => Redirect::to(&format!("/j/{id}")).into_response(),
        Err(e) => failed(&e),
    }
}
