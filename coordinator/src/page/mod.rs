//! The web page: jobs, one job, workers. Rendered here, without a build of scripts.
//!
//! A page asks every two seconds for its own address and swaps in the sections that changed, so
//! that it works, without updates, where scripts are off. It shows jobs, hands out artifacts, and
//! cancels, pauses and resumes jobs; it changes nothing else. Who may only look sees no button.

mod actions;
mod chart;
mod curve;
mod job;
mod jobs;
mod layout;
mod refusals;
mod sessions;

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use qlora_engine::{Engine, Job, JobId, JobState};
use qlora_proto::ExplainResponse;
use qlora_store::{JobQuery, JobStore};

use self::curve::Curves;
use self::refusals::{failed, job_number};
pub use self::refusals::{no_entry, not_found, refused};
use crate::caller::Caller;
use crate::clock::now;
use crate::convert;
use crate::services::{Services, explain, summary};
use crate::sessions::Sessions;

/// Jobs of the list: the newest.
const LISTED: u32 = 200;
/// Log lines at the foot of a job's page.
const LOG_LINES: u32 = 40;

pub fn router<S: JobStore>(services: Services<S>, sessions: Arc<Sessions>) -> Router {
    Router::new()
        .route("/", get(list::<S>))
        .route(
            "/j/{id}",
            get(show::<S>).with_state((services.clone(), Arc::default())),
        )
        .route("/j/{id}/artifacts/{name}", get(actions::download::<S>))
        .route("/j/{id}/cancel", post(actions::cancel::<S>))
        .route("/j/{id}/pause", post(actions::pause::<S>))
        .route("/j/{id}/resume", post(actions::resume::<S>))
        .route(
            "/sessions",
            get(self::sessions::list).with_state(sessions.clone()),
        )
        .route(
            "/sessions/{number}/end",
            post(self::sessions::end).with_state(sessions),
        )
        .method_not_allowed_fallback(wrong_method)
        .with_state(services)
}

/// A page asked for in a way that it is not given: a cancel by its address, say.
async fn wrong_method(request: axum::extract::Request) -> Response {
    let why = format!(
        "{} is not for {} requests",
        request.uri().path(),
        request.method()
    );
    refused(StatusCode::METHOD_NOT_ALLOWED, why)
}

async fn list<S: JobStore>(State(services): State<Services<S>>) -> Response {
    let query = JobQuery {
        states: None,
        before: JobId(u64::MAX),
        limit: LISTED,
    };
    let jobs = match services.store.jobs(&query).await {
        Ok(page) => page.jobs,
        Err(e) => return failed(&e.into()),
    };
    let read = services.driver.read(move |engine| {
        // What a job waits for stands in the place of its reason.
        let row = |job: &Job| {
            let mut row = convert::job(job);
            if matches!(job.state, JobState::Queued { .. }) {
                row.reason = summary(engine, job, now());
            }
            row
        };
        let jobs: Vec<_> = jobs.iter().map(row).collect();
        let drained = engine.queue_drain().map(convert::drain);
        (jobs, convert::workers(engine), drained)
    });
    match read.await {
        Ok((jobs, workers, drained)) => {
            jobs::page(&jobs, &workers, drained.as_ref(), now()).into_response()
        }
        Err(e) => failed(&e),
    }
}

async fn show<S: JobStore>(
    State((services, curves)): State<(Services<S>, Arc<Curves>)>,
    Path(id): Path<String>,
    Extension(caller): Extension<Caller>,
) -> Response {
    let id = match job_number(&id) {
        Ok(id) => id,
        Err(page) => return *page,
    };
    let job = match services.job(id).await {
        Ok(job) => job,
        Err(e) => return failed(&e),
    };
    let why = services
        .driver
        .read(move |engine| why_queued(engine, engine.job(convert::job_in(id))?));
    let why = match why.await {
        Ok(why) => why,
        Err(e) => return failed(&e),
    };
    let curve = curves
        .of(id, |after, limit| {
            services.store.metrics(convert::job_in(id), after, limit)
        })
        .await;
    let logs = services
        .store
        .last_logs(convert::job_in(id), LOG_LINES)
        .await;
    match (curve, logs) {
        (Ok(curve), Ok(logs)) => {
            let key = caller.acts().then(|| caller.form_key());
            job::page(&job, why.as_ref(), &curve, &logs, key).into_response()
        }
        (Err(e), _) | (_, Err(e)) => failed(&e.into()),
    }
}

/// What a queued job waits for.
fn why_queued(engine: &Engine, job: &Job) -> Option<ExplainResponse> {
    matches!(job.state, JobState::Queued { .. }).then(|| explain(engine, job, now()))
}
