//! One connection: how many requests are in flight on it, since when it is idle, and what the peer
//! has shown of itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::bounds::Bounds;

#[derive(Debug)]
pub struct Connection {
    local: SocketAddr,
    peer: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    idle_since: Instant,
    known: bool,
    encrypted: bool,
    certified: bool,
}

impl Connection {
    /// # Errors
    /// The peer is gone already.
    pub(super) fn new(stream: &TcpStream) -> std::io::Result<Arc<Self>> {
        Ok(Self::between(stream.local_addr()?, stream.peer_addr()?))
    }

    /// Of a peer at `peer` that called `local`.
    pub fn between(local: SocketAddr, peer: SocketAddr) -> Arc<Self> {
        let state = State {
            under_way: 0,
            idle_since: Instant::now(),
            known: false,
            encrypted: false,
            certified: false,
        };
        Arc::new(Self {
            local,
            peer,
            state: Mutex::new(state),
        })
    }

    /// The address that the peer called.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address that the peer calls from.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The peer has shown the token.
    pub fn trust(&self) {
        self.state().known = true;
    }

    /// The connection is under TLS, and the peer may have shown a certificate.
    pub(super) fn encrypted(&self, certified: bool) {
        let mut state = self.state();
        (state.encrypted, state.certified) = (true, certified);
    }

    /// Whether nobody else reads what passes.
    pub fn is_encrypted(&self) -> bool {
        self.state().encrypted
    }

    /// Whether the peer has shown a certificate of the CA that clients are asked for.
    pub fn is_certified(&self) -> bool {
        self.state().certified
    }

    /// Whether the peer has shown the token.
    pub fn is_known(&self) -> bool {
        self.state().known
    }

    /// A request begins; it is under way until what this gives is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.state().under_way += 1;
        UnderWay(self.clone())
    }

    /// Waits until no request has been under way for longer than the bounds allow.
    pub(super) async fn overdue(&self, bounds: Bounds) {
        loop {
            let now = Instant::now();
            let due = self.due(bounds, now);
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }

    /// When to look again, or a moment that has passed.
    fn due(&self, bounds: Bounds, now: Instant) -> Instant {
        let state = self.state();
        let limit = if state.known {
            bounds.known
        } else {
            bounds.stranger
        };
        if state.under_way > 0 {
            now + limit
        } else {
            state.idle_since + limit
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is under way.
pub(super) struct UnderWay(Arc<Connection>);

impl UnderWay {
    /// The request is under way as long as its answer is being sent: streams may go on for hours.
    pub fn until_the_end_of(self, body: Body) -> Answer {
        Answer {
            body,
            _under_way: self,
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.under_way -= 1;
        state.idle_since = Instant::now();
    }
}

/// The body of an answer, which keeps its request under way.
pub(super) struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
