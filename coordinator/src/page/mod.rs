//! The web page: jobs, one job, workers. Rendered here, without a build of scripts.
//!
//! A page asks every two seconds for its own address and swaps in what changed, so that it works, without
//! moving, where scripts are off. It only shows; it changes nothing.

mod chart;
mod job;
mod jobs;
mod layout;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use qlora_store::JobStore;

use crate::convert;
use crate::services::Services;

/// Points of a curve that are drawn: a bucket a pixel, each with its extremes.
const CURVE: u32 = 100_000;
/// Log lines at the foot of a job's page.
const LOG_LINES: usize = 40;

pub fn router<S: JobStore>(services: Services<S>) -> Router {
    Router::new().route("/", get(list::<S>)).route("/j/{id}", get(show::<S>)).with_state(services)
}

/// A page that says what is not there.
pub fn not_found(what: impl std::fmt::Display) -> Response {
    let text = what.to_string();
    (StatusCode::NOT_FOUND, layout::page("not found", &maud::html! { p { (text) } })).into_response()
}

/// A page for who has not been let in yet.
pub fn no_entry() -> maud::Markup {
    layout::page(
        "no access",
        &maud::html! {
            h1 { "This page asks for a token" }
            p { "On the coordinator's machine, as the user who runs it: " code { "qlora-ctl page" } " prints a link that opens it." }
            p { "Elsewhere: " code { "qlora-ctl page --coordinator ADDR --token-file FILE" } ", with a copy of the file " code { "token" } " from the coordinator's state folder." }
        },
    )
}

async fn list<S: JobStore>(State(services): State<Services<S>>) -> Response {
    let read = services.driver.read(|engine| {
        let jobs: Vec<_> = engine.jobs().rev().take(200).map(convert::job).collect();
        let workers: Vec<_> = engine.workers().map(|w| convert::worker(engine, w)).collect();
        (jobs, workers)
    });
    match read.await {
        Ok((jobs, workers)) => jobs::page(&jobs, &workers).into_response(),
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, e.to_string()).into_response(),
    }
}

async fn show<S: JobStore>(State(services): State<Services<S>>, Path(id): Path<u64>) -> Response {
    let job = match services.job(id).await {
        Ok(job) => job,
        Err(e) => return not_found(e),
    };
    let metrics = services.store.metrics(convert::job_in(id), 0, CURVE).await;
    let logs = services.store.logs(convert::job_in(id), 0, CURVE).await;
    match (metrics, logs) {
        (Ok(metrics), Ok(logs)) => {
            let first = logs.len().saturating_sub(LOG_LINES);
            job::page(&job, &metrics, &logs[first..]).into_response()
        }
        (Err(e), _) | (_, Err(e)) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}
