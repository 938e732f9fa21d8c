//! The answer to a refused request, in the form that its sender reads: a gRPC status, a page, or a
//! line of text.

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use qlora_proto::PASSES_AFTER;
use tonic::metadata::MetadataValue;

use super::form;
use super::headers::keep_to_itself;
use super::refusal::{HEADER, Refusal};
use crate::page;

/// What the sender of `request` gets for `refusal`.
pub fn refuse(refusal: &Refusal, request: &Request) -> Response {
    if request.version() == Version::HTTP_2 && form::is_grpc_type(request) {
        let mut status = tonic::Status::new(refusal.code(), refusal.to_string());
        if let Some(after) = refusal.passes_after() {
            // Not less than it takes.
            let ms = MetadataValue::from(after.as_millis() as u64 + 1);
            status.metadata_mut().insert(PASSES_AFTER, ms);
        }
        return status.into_http();
    }
    let mut response = match refusal {
        Refusal::NoToken
        | Refusal::NoSession
        | Refusal::Link
        | Refusal::WrongToken
        | Refusal::Expired
        | Refusal::Revoked => {
            if wants_page(request) {
                let fault = (*refusal == Refusal::Link).then(|| refusal.to_string());
                page::no_entry(fault.as_deref()).into_response()
            } else {
                format!("{refusal}; over HTTP, {HEADER}\n").into_response()
            }
        }
        Refusal::Role { .. } if wants_page(request) => page::refused(refusal.status(), refusal),
        Refusal::Absent(path) => page::not_found(format!("nothing lies at {path}")),
        _ => format!("{refusal}\n").into_response(),
    };
    *response.status_mut() = refusal.status();
    let headers = response.headers_mut();
    if refusal.status() == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if matches!(refusal, Refusal::Method(_)) {
        headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
    }
    if let Some(after) = refusal.passes_after() {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs() + 1));
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The form to log in again, for who has sent it with a token that `refusal` is about.
pub fn ask_again(refusal: &Refusal) -> Response {
    let page = page::no_entry(Some(&refusal.to_string()));
    let mut response = (refusal.status(), page).into_response();
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    keep_to_itself(&mut response);
    response
}

fn wants_page(request: &Request) -> bool {
    let accepts = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accepts.is_some_and(|kinds| kinds.contains("text/html"))
}
