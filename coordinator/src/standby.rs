//! Waits until this coordinator leads. Meanwhile it listens, answers health as not serving, and
//! refuses every call with the address of the leader, so that callers go on to the next address.
//!
//! It knows no token, so that it tells everybody the same, and nothing of a job.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use qlora_proto::STANDBY;
use qlora_proto::job_service_server::JobServiceServer;
use qlora_proto::worker_service_server::WorkerServiceServer;
use qlora_store::{Campaign, Candidate, PostgresStore, StoreError};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::bound_address::BoundAddress;
use crate::doors;
use crate::error::StartError;
use crate::listen::{self, Bounds, Configs};

/// How often the database is asked for its lock.
const BEAT: Duration = Duration::from_millis(250);
/// How long refusals that are under way may take when this coordinator begins to lead.
const FAREWELL: Duration = Duration::from_millis(250);

/// What a standby knows of its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Somebody leads, at this address where it has said so.
    Behind(Option<String>),
    /// The database does not answer, so that nobody is known to lead. The fault names it, and is for
    /// the log only.
    Away(String),
}

impl Standing {
    /// What callers are told.
    fn text(&self) -> String {
        match self {
            Self::Behind(Some(leader)) => {
                format!("{STANDBY}; call the leader at {leader}")
            }
            Self::Behind(None) => {
                format!("{STANDBY}, and the leader has not said where it is; try again")
            }
            Self::Away(_) => {
                format!("{STANDBY}, and its database does not answer; try again")
            }
        }
    }
}

/// Returns once this coordinator leads, with the store; or none, once `stop` tells it to end.
///
/// # Errors
/// The database cannot be used, or the address cannot be listened on.
pub async fn wait(
    mut candidate: Candidate,
    bound: &BoundAddress,
    advertised: &str,
    (bounds, tls): (Bounds, Option<Configs>),
    stop: impl Future<Output = ()> + Unpin,
) -> Result<Option<Box<PostgresStore>>, StartError> {
    let standing = match judged(candidate.ask(advertised).await?) {
        Ok(store) => return Ok(Some(store)),
        Err(standing) => standing,
    };
    say(&standing);
    let (known, told) = watch::channel(standing);
    let mut won = None;
    let until = async {
        tokio::select! {
            ended = campaign(&mut candidate, advertised, &known) => won = Some(ended),
            () = stop => {}
        }
    };
    let listener = bound.listener()?;
    listen::serve(listener, router(told).await, bounds, tls, until, FAREWELL).await;
    Ok(won.transpose()?)
}

/// The store of who leads; else how it stands.
fn judged(campaign: Campaign) -> Result<Box<PostgresStore>, Standing> {
    match campaign {
        Campaign::Leads(store) => Ok(store),
        Campaign::Stands { leader } => Err(Standing::Behind(leader)),
        Campaign::Away(fault) => Err(Standing::Away(fault.to_string())),
    }
}

/// Asks until this coordinator leads.
async fn campaign(
    candidate: &mut Candidate,
    advertised: &str,
    known: &watch::Sender<Standing>,
) -> Result<Box<PostgresStore>, StoreError> {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let now = match judged(candidate.ask(advertised).await?) {
            Ok(store) => {
                tracing::info!("this coordinator leads from now on");
                return Ok(store);
            }
            Err(standing) => standing,
        };
        let is_news = known.send_if_modified(|old| {
            let is_news = *old != now;
            old.clone_from(&now);
            is_news
        });
        if is_news {
            say(&now);
        }
    }
}

fn say(standing: &Standing) {
    match standing {
        Standing::Behind(_) => tracing::info!("{}", standing.text()),
        Standing::Away(fault) => tracing::warn!("waiting for the database: {fault}"),
    }
}

/// The routes of a standby: health, and a refusal for all else.
async fn router(told: watch::Receiver<Standing>) -> Router {
    let (health, service) = tonic_health::server::health_reporter();
    // The empty name stands for the whole server.
    health
        .set_service_status("", tonic_health::ServingStatus::NotServing)
        .await;
    health.set_not_serving::<JobServiceServer<()>>().await;
    health.set_not_serving::<WorkerServiceServer<()>>().await;
    let told = Arc::new(told);
    Router::new()
        .route_service("/grpc.health.v1.Health/{*method}", service)
        .route("/healthz", get(refuse))
        .fallback(refuse)
        .with_state(told)
}

async fn refuse(State(told): State<Arc<watch::Receiver<Standing>>>, request: Request) -> Response {
    let text = told.borrow().text();
    if doors::is_grpc_type(&request) {
        return tonic::Status::unavailable(text).into_http();
    }
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (
        StatusCode::SERVICE_UNAVAILABLE,
        headers,
        format!("{text}\n"),
    )
        .into_response()
}
