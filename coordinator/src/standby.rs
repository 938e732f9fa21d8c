//! Waits until this coordinator leads. Meanwhile it listens, answers health as not serving, and
//! refuses every call with the address of the leader, so that callers go on to the next address.
//!
//! It knows no token, so that it tells everybody the same, and nothing of a job.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use qlora_proto::job_service_server::JobServiceServer;
use qlora_proto::worker_service_server::WorkerServiceServer;
use qlora_proto::{LED_BY, STANDBY};
use qlora_store::{ArtifactError, Campaign, Candidate, Owner, PostgresStore};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::bound_address::BoundAddress;
use crate::doors;
use crate::error::StartError;
use crate::listen::{self, Bounds, Configs};

/// How often the database is asked for its lock.
const BEAT: Duration = Duration::from_millis(250);
/// How often a leader tries to open what it needs.
const RETRY: Duration = Duration::from_secs(1);
/// How long refusals that are under way may take when this coordinator begins to lead.
const FAREWELL: Duration = Duration::from_millis(250);

/// What a standby knows of its leader.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// Somebody leads, at this address where it has said so.
    Behind(Option<String>),
    /// As behind; and it cannot be told yet whether this standby has the leader's artifacts. The fault
    /// is for the log only.
    Unsettled {
        leader: Option<String>,
        fault: String,
    },
    /// The database does not answer, so that nobody is known to lead. The fault names it, and is for
    /// the log only.
    Away(String),
    /// It leads itself, and reads what is stored, for the first time.
    Reading,
    /// It leads itself, and cannot open the artifacts yet. The fault is for the log only.
    Unready(String),
}

impl Standing {
    /// What callers are told.
    fn text(&self) -> String {
        match self {
            Self::Behind(Some(leader))
            | Self::Unsettled {
                leader: Some(leader),
                ..
            } => {
                format!("{STANDBY}{LED_BY}{leader}")
            }
            Self::Behind(None) | Self::Unsettled { leader: None, .. } => {
                format!("{STANDBY}, and the leader has not said where it is; try again")
            }
            Self::Away(_) => {
                format!("{STANDBY}, and its database does not answer; try again")
            }
            Self::Reading => "this coordinator leads, and reads its state; try again".into(),
            Self::Unready(_) => {
                "this coordinator leads, and the artifact store is not available to it; try again"
                    .into()
            }
        }
    }
}

/// What came of waiting to lead.
pub struct Won {
    pub store: Box<PostgresStore>,
    /// Others led before, so that nobody looks at this program any more.
    pub is_takeover: bool,
}

/// Where a standby is called, and how.
pub struct Listening<'a> {
    pub bound: &'a BoundAddress,
    pub bounds: Bounds,
    pub tls: Option<Configs>,
}

/// Returns once this coordinator leads, with the store; or none, once `stop` tells it to end. While
/// another one leads, `accepts` is asked whether this one could, until it says so: what it finds may
/// be [`ArtifactError::Unmarked`] for a while.
///
/// # Errors
/// The database cannot be used, `accepts` refuses it, or the address cannot be listened on.
pub async fn wait(
    candidate: Candidate,
    listening: Listening<'_>,
    advertised: &str,
    accepts: impl AsyncFn(Owner) -> Result<(), ArtifactError>,
    stop: impl Future<Output = ()> + Unpin,
) -> Result<Option<Won>, StartError> {
    let won = |store, is_takeover| Won { store, is_takeover };
    let mut waiting = Waiting {
        candidate,
        advertised,
        accepts,
        is_settled: false,
    };
    let standing = match waiting.ask().await? {
        ControlFlow::Break(store) => return Ok(Some(won(store, false))),
        ControlFlow::Continue(standing) => standing,
    };
    say(&standing);
    let (known, told) = watch::channel(standing);
    let ended = refuse_until(listening, told, waiting.campaign(&known), stop).await?;
    Ok(ended.transpose()?.map(|store| won(store, true)))
}

/// Who waits to lead.
struct Waiting<'a, A> {
    candidate: Candidate,
    advertised: &'a str,
    /// Whether it has the artifacts of the leader.
    accepts: A,
    /// It has been accepted.
    is_settled: bool,
}

impl<A: AsyncFn(Owner) -> Result<(), ArtifactError>> Waiting<'_, A> {
    /// Asks until this coordinator leads.
    async fn campaign(
        mut self,
        known: &watch::Sender<Standing>,
    ) -> Result<Box<PostgresStore>, StartError> {
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            match self.ask().await? {
                ControlFlow::Break(store) => {
                    tracing::info!("this coordinator leads from now on");
                    return Ok(store);
                }
                ControlFlow::Continue(now) => note(known, now),
            }
        }
    }

    /// Asks once for the lead, and, while another one has it, whether this one could have it.
    async fn ask(&mut self) -> Result<ControlFlow<Box<PostgresStore>, Standing>, StartError> {
        let leader = match self.candidate.ask(self.advertised).await? {
            Campaign::Leads(store) => return Ok(ControlFlow::Break(store)),
            Campaign::Away(fault) => {
                return Ok(ControlFlow::Continue(Standing::Away(fault.to_string())));
            }
            Campaign::Stands { leader } => leader,
        };
        if !self.is_settled
            && let Some(owner) = self.candidate.owner().await
        {
            match (self.accepts)(owner).await {
                Ok(()) => self.is_settled = true,
                Err(fault @ ArtifactError::Unmarked { .. }) => {
                    let fault = fault.to_string();
                    return Ok(ControlFlow::Continue(Standing::Unsettled { leader, fault }));
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(ControlFlow::Continue(Standing::Behind(leader)))
    }
}

/// What a coordinator that has taken over needs: what `read` reads, and what `open` opens for it; or
/// none, once `stop` tells it to end. It reads once, opens again whatever may pass, and refuses all
/// calls meanwhile: if it ended, nobody would lead.
///
/// # Errors
/// It cannot read, opening again does not help, or the address cannot be listened on.
pub async fn until_open<S, T>(
    listening: Listening<'_>,
    read: impl Future<Output = Result<S, StartError>>,
    open: impl AsyncFn(&S) -> Result<T, StartError>,
    stop: impl Future<Output = ()> + Unpin,
) -> Result<Option<(S, T)>, StartError> {
    let (known, told) = watch::channel(Standing::Reading);
    refuse_until(listening, told, opened(read, open, &known), stop)
        .await?
        .transpose()
}

/// Reads once, and opens until it is open, or trying again does not help.
async fn opened<S, T>(
    read: impl Future<Output = Result<S, StartError>>,
    open: impl AsyncFn(&S) -> Result<T, StartError>,
    known: &watch::Sender<Standing>,
) -> Result<(S, T), StartError> {
    let state = read.await?;
    let opened = tries(async || open(&state).await, known).await?;
    Ok((state, opened))
}

/// Opens until it is open, or trying again does not help.
async fn tries<T>(
    open: impl AsyncFn() -> Result<T, StartError>,
    known: &watch::Sender<Standing>,
) -> Result<T, StartError> {
    let mut beat = interval(RETRY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let fault = match open().await {
            Err(fault) if fault.may_pass() => fault,
            other => return other,
        };
        note(known, Standing::Unready(fault.to_string()));
    }
}

/// Refuses all calls with what is `told` until `awaited` ends, and returns what it came to; or none,
/// once `stop` tells it to end.
async fn refuse_until<T>(
    listening: Listening<'_>,
    told: watch::Receiver<Standing>,
    awaited: impl Future<Output = T>,
    stop: impl Future<Output = ()> + Unpin,
) -> Result<Option<T>, StartError> {
    let mut came = None;
    let until = async {
        tokio::select! {
            ended = awaited => came = Some(ended),
            () = stop => {}
        }
    };
    let listener = listening.bound.listener()?;
    let (bounds, tls) = (listening.bounds, listening.tls);
    listen::serve(listener, router(told).await, bounds, tls, until, FAREWELL).await;
    Ok(came)
}

/// Keeps what callers are told from `now` on, and says it where it is news.
fn note(known: &watch::Sender<Standing>, now: Standing) {
    let is_news = known.send_if_modified(|old| {
        let is_news = *old != now;
        old.clone_from(&now);
        is_news
    });
    if is_news {
        say(&now);
    }
}

fn say(standing: &Standing) {
    match standing {
        Standing::Behind(_) => tracing::info!("{}", standing.text()),
        Standing::Away(fault) => tracing::warn!("waiting for the database: {fault}"),
        Standing::Reading => tracing::info!("reading the state"),
        Standing::Unready(fault) => tracing::warn!("waiting for the artifacts: {fault}"),
        Standing::Unsettled { fault, .. } => {
            tracing::warn!("waiting for the leader to mark the artifacts: {fault}");
        }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use qlora_store::BucketFault;

    use super::*;

    /// Fails with each of `faults`, one after the other, and then opens; returns how often it tried.
    async fn tried(faults: Vec<ArtifactError>) -> (Result<(), StartError>, usize) {
        let (left, count) = (Cell::new(faults.into_iter()), Cell::new(0));
        let open = async || {
            count.set(count.get() + 1);
            let mut faults = left.take();
            let fault = faults.next();
            left.set(faults);
            fault.map_or(Ok(()), |fault| Err(fault.into()))
        };
        let (known, _told) = watch::channel(Standing::Reading);
        let ended = tries(open, &known).await;
        (ended, count.get())
    }

    fn bucket(fault: BucketFault) -> ArtifactError {
        ArtifactError::Bucket {
            place: "s3://b".into(),
            fault,
        }
    }

    #[tokio::test]
    async fn a_leader_tries_again_while_its_bucket_is_away() {
        let faults = vec![
            bucket(BucketFault::Unreachable("refused".into())),
            bucket(BucketFault::Throttled("503".into())),
            bucket(BucketFault::Other("500".into())),
        ];
        let (ended, count) = tried(faults).await;
        assert!(ended.is_ok());
        assert_eq!(count, 4);
    }

    #[tokio::test]
    async fn a_takeover_reads_its_state_once_however_often_it_opens_the_artifacts() {
        let (reads, opens) = (Cell::new(0), Cell::new(0));
        let (known, told) = watch::channel(Standing::Reading);
        let read = async {
            reads.set(reads.get() + 1);
            assert!(told.borrow().text().contains("reads its state"));
            Ok("state")
        };
        let open = async |state: &&str| {
            assert_eq!(*state, "state");
            opens.set(opens.get() + 1);
            match opens.get() {
                3 => Ok(()),
                _ => Err(bucket(BucketFault::Unreachable("refused".into())).into()),
            }
        };
        let ended = opened(read, open, &known).await;
        assert!(matches!(ended, Ok(("state", ()))));
        assert_eq!((reads.get(), opens.get()), (1, 3));
        assert!(matches!(&*told.borrow(), Standing::Unready(_)));
    }

    /// Another coordinator may be able to lead, and waits for the end of this one.
    #[tokio::test]
    async fn a_leader_ends_at_once_where_trying_again_does_not_help_or_the_fault_is_its_own() {
        let io = ArtifactError::Io {
            path: "p".into(),
            source: std::io::ErrorKind::PermissionDenied.into(),
        };
        let foreign = ArtifactError::Foreign {
            path: "p".into(),
            found: "a".into(),
            id: "b".into(),
        };
        for fault in [
            io,
            foreign,
            ArtifactError::DiskFull { path: "p".into() },
            bucket(BucketFault::Denied("403".into())),
            bucket(BucketFault::Settings("AWS_ENDPOINT_URL".into())),
            bucket(BucketFault::NoBucket),
        ] {
            let said = fault.to_string();
            let away = bucket(BucketFault::Unreachable("refused".into()));
            let (ended, count) = tried(vec![away, fault]).await;
            let fault = ended.expect_err("an end");
            assert_eq!((fault.to_string(), count), (said, 2));
            assert_eq!(fault.exit_code(), std::process::ExitCode::from(3));
        }
    }
}
