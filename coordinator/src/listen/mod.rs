//! The listener: takes connections, bounds their number and their idle time, and drops peers that
//! vanished.
//!
//! A peer that has shown the token keeps its connection as long as it lives. Strangers share the
//! remaining places: when all are taken, the oldest stranger makes room for the next one, so that
//! idle connections lock nobody out. A TLS handshake takes a place too, and the time that a stranger
//! may be idle.

mod bounds;
mod connection;
mod descriptors;
mod places;
mod secure;

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub use self::bounds::Bounds;
pub use self::connection::Connection;
pub use self::descriptors::raise as raise_descriptors;
use self::places::Places;
use self::secure::secure;
pub use self::secure::{Configs, Io};

/// A request's head.
const HEAD_BYTES: usize = 64 << 10;
/// Calls of one connection at the same time.
const STREAMS: u32 = 256;
/// Waits where the system has no descriptor left: nothing tells when there is one again.
const NO_DESCRIPTOR: Duration = Duration::from_millis(100);

/// Serves, under TLS where there is a configuration of it, until `stop`, then gives calls under way
/// `grace` to end.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    tls: Option<Configs>,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let (stopping, told) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut places = Places::new(bounds.connections);
    let mut stop = pin!(stop);
    // Accepted, and served as soon as there is a place.
    let mut waiting = None;
    loop {
        while let Some(ended) = connections.try_join_next_with_id() {
            places.leave(&ended);
        }
        if let Some((stream, connection)) = waiting.take_if(|_| places.has_room()) {
            let held = hold(
                stream,
                router.clone(),
                Arc::clone(&connection),
                bounds,
                tls.clone(),
                told.clone(),
            );
            places.take(connections.spawn(held), connection);
        }
        if waiting.is_some() {
            places.make_room();
        }
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next_with_id() => places.leave(&ended),
            accepted = listener.accept(), if waiting.is_none() => match accepted {
                Ok((stream, _)) => waiting = Connection::new(&stream).ok().map(|connection| (stream, connection)),
                Err(fault) => unaccepted(&fault, &places).await,
            },
        }
    }
    drop(listener);
    let _ = stopping.send(true);
    let _ = timeout(grace, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// A peer that is gone again is none of our business; descriptors that have run out are.
async fn unaccepted(fault: &std::io::Error, places: &Places) {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    if matches!(
        fault.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    ) {
        return;
    }
    tracing::warn!("a connection cannot be accepted: {fault}; a stranger makes room");
    places.evict();
    tokio::time::sleep(NO_DESCRIPTOR).await;
}

/// Serves one connection until it ends, or has been idle for too long, or all are to stop.
async fn hold(
    stream: TcpStream,
    router: Router,
    connection: Arc<Connection>,
    bounds: Bounds,
    tls: Option<Configs>,
    mut told: watch::Receiver<bool>,
) {
    // Small answers must not wait for the acknowledgment of the one before.
    if let Err(e) = stream.set_nodelay(true) {
        tracing::debug!(error = %e, "a connection keeps Nagle's algorithm");
    }
    let secured = tokio::select! {
        secured = secure(stream, tls.as_ref(), &connection) => secured,
        () = connection.overdue(bounds) => return,
        _ = told.wait_for(|stop| *stop) => return,
    };
    match secured {
        Ok(stream) => converse(stream, router, connection, bounds, told).await,
        Err(e) => tracing::debug!(error = %e, "a handshake failed"),
    }
}

/// Answers requests on `stream`, until it ends, or has been idle for too long, or it is told that
/// all are to stop.
pub async fn converse(
    stream: Box<dyn Io>,
    router: Router,
    connection: Arc<Connection>,
    bounds: Bounds,
    mut told: watch::Receiver<bool>,
) {
    let mut stopped = pin!(async { drop(told.wait_for(|stop| *stop).await) });
    let builder = builder(bounds);
    let own = connection.clone();
    let service = service_fn(move |request| answer(router.clone(), own.clone(), request));
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let overdue = tokio::select! {
        // A simulation takes the same course again.
        biased;
        ended = &mut serving => {
            if let Err(e) = ended {
                tracing::debug!(error = %e, "a connection broke off");
            }
            return;
        }
        () = connection.overdue(bounds) => true,
        () = &mut stopped => false,
    };
    serving.as_mut().graceful_shutdown();
    // After a stop, calls under way have until the listener gives up.
    let patience = if overdue {
        bounds.farewell
    } else {
        Duration::MAX
    };
    let _ = timeout(patience, serving).await;
}

fn builder(bounds: Bounds) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.known)
        .max_buf_size(HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(bounds.ping)
        .keep_alive_timeout(bounds.ping)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES as u32);
    builder
}

async fn answer(
    router: Router,
    connection: Arc<Connection>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let under_way = connection.begin();
    request.extensions_mut().insert(connection);
    let response = TowerToHyperService::new(router)
        .call(request.map(Body::new))
        .await?;
    Ok(response.map(|body| Body::new(under_way.until_the_end_of(body))))
}

#[cfg(test)]
mod tests;
