//! What the page can do: download an artifact, cancel a job.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use qlora_engine::Event;
use qlora_proto::CHUNK_BYTES;
use qlora_store::{ArtifactReader, Digest256, JobStore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{layout, not_found};
use crate::convert;
use crate::error::CallError;
use crate::services::Services;

/// Sends an artifact of a job as a file.
pub async fn download<S: JobStore>(
    State(services): State<Services<S>>,
    Path((id, name)): Path<(u64, String)>,
) -> Response {
    let job = match services.job(id).await {
        Ok(job) => job,
        Err(e) => return not_found(e),
    };
    let Some(artifact) = job.artifacts.iter().rev().find(|artifact| artifact.name == name) else {
        return not_found(format!("job {id} has no artifact {name}"));
    };
    let reader = match artifact.digest.parse::<Digest256>() {
        Ok(digest) => services.artifacts.read(&digest, 0).await,
        Err(e) => Err(e),
    };
    match reader {
        Ok(reader) => file(&format!("job-{id}-{name}"), reader),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

fn file(name: &str, mut reader: ArtifactReader) -> Response {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, reader.size.to_string()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        loop {
            let piece = reader.next(CHUNK_BYTES).await;
            let is_failed = piece.is_err();
            if piece.as_ref().is_ok_and(Vec::is_empty) {
                return;
            }
            // A browser that went away wants no more; one that sees the connection break knows that bytes are missing.
            if sender.send(piece).await.is_err() || is_failed {
                return;
            }
        }
    });
    (headers, Body::from_stream(ReceiverStream::new(receiver))).into_response()
}

/// Cancels a job and shows it again.
pub async fn cancel<S: JobStore>(
    State(services): State<Services<S>>,
    Path(id): Path<u64>,
    headers: HeaderMap,
) -> Response {
    if !is_from_own_page(&headers) {
        return refused(StatusCode::FORBIDDEN, "this request does not come from a page of the coordinator");
    }
    let event = Event::Cancel { job: convert::job_in(id), reason: "by user, on the page".into() };
    match services.driver.event(event).await {
        Ok(_) => Redirect::to(&format!("/j/{id}")).into_response(),
        Err(e @ CallError::Refused(_)) => refused(StatusCode::CONFLICT, &e.to_string()),
        Err(e) => refused(StatusCode::SERVICE_UNAVAILABLE, &e.to_string()),
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, layout::page("refused", &maud::html! { p { (why) } })).into_response()
}

/// Any page in a browser can send a form to this address. One of another site is told by its `Origin`; one that made its
/// own name point here is told by a host that is neither an address nor bears the coordinator's cookie.
fn is_from_own_page(headers: &HeaderMap) -> bool {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else {
        // Browsers send it with every form; what does not is a program, which could do anything else as well.
        return text(header::HeaderName::from_static("sec-fetch-site")).is_none_or(|site| site == "same-origin");
    };
    let Some(host) = text(header::HOST) else { return false };
    let is_same = origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    let has_cookie = text(header::COOKIE).is_some_and(|cookies| cookies.contains("qlora_token="));
    is_same && (has_cookie || is_address(host))
}

/// Whether `host` is an IP address or `localhost`, with a port or without.
fn is_address(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(pairs: &[(&'static str, &str)]) -> bool {
        let headers =
            pairs.iter().map(|(name, value)| (header::HeaderName::from_static(name), value.parse().expect("a value")));
        is_from_own_page(&headers.collect())
    }

    #[test]
    fn only_a_page_of_our_own_may_cancel() {
        for host in ["127.0.0.1:7070", "localhost:7070", "[::1]:7070", "10.0.0.5:80"] {
            assert!(allowed(&[("origin", &format!("http://{host}")), ("host", host)]), "{host}");
        }
        let cookie = ("cookie", "a=b; qlora_token=secret");
        assert!(allowed(&[("origin", "https://qlora.example"), ("host", "qlora.example"), cookie]));
        for (origin, host) in [
            ("http://evil.example", "127.0.0.1:7070"),
            ("null", "127.0.0.1:7070"),
            ("http://127.0.0.1:8080", "127.0.0.1:7070"),
            ("http://rebound.example:7070", "rebound.example:7070"),
        ] {
            assert!(!allowed(&[("origin", origin), ("host", host)]), "{origin} {host}");
        }
        assert!(!allowed(&[("host", "127.0.0.1:7070"), ("sec-fetch-site", "cross-site")]));
        assert!(allowed(&[("host", "127.0.0.1:7070")]));
    }
}
