//! Pages for requests that fail: what was asked for does not exist, or is refused.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use qlora_engine::Refusal;

use super::layout;
use crate::error::CallError;

/// A page that says what is not there.
pub fn not_found(what: impl std::fmt::Display) -> Response {
    refused(StatusCode::NOT_FOUND, what)
}

/// A page that says why there is no other, and leads back.
pub fn refused(status: StatusCode, why: impl std::fmt::Display) -> Response {
    let title = status
        .canonical_reason()
        .unwrap_or("Refused")
        .to_lowercase();
    let body = maud::html! {
        h1 { (title) }
        p { (why) }
        p { a href="/" { "All jobs and workers" } }
    };
    (status, layout::page(&title, &body)).into_response()
}

/// The number of the job that an address names, or the page that says that there is none.
pub fn job_number(text: &str) -> Result<u64, Box<Response>> {
    let number = text.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| {
        Box::new(not_found(format!(
            "`{text}` is no job: a job is a number from 1 on"
        )))
    })
}

/// The page for a call that failed.
pub fn failed(fault: &CallError) -> Response {
    let status = match fault {
        CallError::Refused(Refusal::UnknownJob(_)) => StatusCode::NOT_FOUND,
        CallError::Refused(_) => StatusCode::CONFLICT,
        CallError::Unreadable { .. }
        | CallError::Damaged(_)
        | CallError::Store(_)
        | CallError::Artifact(_)
        | CallError::Digest(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    refused(status, fault)
}

/// A page for who has not been let in yet.
pub fn no_entry(fault: Option<&str>) -> maud::Markup {
    layout::page(
        "no access",
        &maud::html! {
            h1 { "This page asks for a token" }
            @if let Some(fault) = fault { p role="alert" { (fault) } }
            form #login method="post" action="/login" {
                label { "Token " input type="password" name="token" required autocomplete="off"; }
                " "
                button type="submit" { "Log in" }
            }
            p { "On the coordinator's machine, as the user who runs it: " code { "qlora-ctl page" } " prints a link that opens it." }
            p { "Elsewhere: " code { "qlora-ctl page --coordinator ADDR --token-file FILE" } ", with a copy of the file " code { "token" } " from the coordinator's state folder." }
        },
    )
}
