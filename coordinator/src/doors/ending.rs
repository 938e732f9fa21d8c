//! Bodies that end with the token that let them in: a stream that was begun with a token breaks off
//! as soon as the token has expired or was revoked.
//!
//! A request is looked at with every piece and at its end, so that one whose body was held back is
//! not carried out any more.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use futures_util::future::{BoxFuture, FutureExt, Shared};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;

use crate::clock::now;
use crate::tokens::{Denied, Issued};

/// What a body is, which says how it breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A request: with an error, also at its end.
    Request,
    /// An answer of gRPC: with the status that ends one.
    Call,
    /// An answer of the page: with an error.
    Page,
}

/// The end of a token, awaited once for all that a call sends and gets.
#[derive(Clone)]
pub struct Term {
    token: Arc<Issued>,
    over: Shared<BoxFuture<'static, Denied>>,
}

impl Term {
    pub fn of(token: Arc<Issued>) -> Self {
        let ends = token.clone();
        let over = async move { ends.over().await }.boxed().shared();
        Self { token, over }
    }

    /// Waits until the token is over.
    pub async fn over(&self) -> Denied {
        self.over.clone().await
    }
}

/// A body under a token.
pub struct Ending {
    /// None once it has broken off.
    body: Option<Body>,
    /// Its end also wakes a stream on which nothing comes.
    term: Term,
    way: Way,
}

impl Ending {
    pub fn new(body: Body, term: Term, way: Way) -> Self {
        Self {
            body: Some(body),
            term,
            way,
        }
    }

    fn broken_off(&mut self, denied: Denied) -> Option<Result<Frame<Bytes>, axum::Error>> {
        // Whoever sends into it hears that nobody listens any more.
        self.body = None;
        let status = Status::unauthenticated(denied.to_string());
        let mut trailers = HeaderMap::new();
        Some(match self.way {
            Way::Call => match status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(unsendable) => Err(axum::Error::new(unsendable)),
            },
            Way::Request | Way::Page => Err(axum::Error::new(status)),
        })
    }
}

impl HttpBody for Ending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.body.is_none() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(denied) = self.term.over.poll_unpin(context) {
            return Poll::Ready(self.broken_off(denied));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !is_data && self.way != Way::Request {
            return Poll::Ready(frame);
        }
        match self.term.token.check(now().wall.0) {
            Ok(()) => Poll::Ready(frame),
            Err(denied) => Poll::Ready(self.broken_off(denied)),
        }
    }

    fn is_end_stream(&self) -> bool {
        // The end of a request is looked at too.
        self.body
            .as_ref()
            .is_none_or(|body| self.way != Way::Request && body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
