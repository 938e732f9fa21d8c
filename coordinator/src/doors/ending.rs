//! Bodies that end with the token that let them in: a stream that was begun with a token breaks off
//! at its next message once the token has expired or was revoked.
//!
//! The first piece of a body always passes: it came with the check of the request itself, and a
//! request that revokes its own token gets its answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;

use crate::clock::now;
use crate::tokens::{Denied, Issued};

/// How a body breaks off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// With the status that ends an answer of gRPC.
    Trailers,
    /// With an error: a message that is received, or a file that is sent.
    Fault,
}

/// A body under a token.
pub struct Ending {
    /// None once it has broken off.
    body: Option<Body>,
    token: Arc<Issued>,
    way: Way,
    has_begun: bool,
}

impl Ending {
    pub fn new(body: Body, token: Arc<Issued>, way: Way) -> Self {
        Self {
            body: Some(body),
            token,
            way,
            has_begun: false,
        }
    }

    fn broken_off(&mut self, denied: Denied) -> Option<Result<Frame<Bytes>, axum::Error>> {
        // Whoever sends into it hears that nobody listens any more.
        self.body = None;
        let status = Status::unauthenticated(denied.to_string());
        let mut trailers = HeaderMap::new();
        Some(match self.way {
            Way::Trailers => match status.add_header(&mut trailers) {
                Ok(()) => Ok(Frame::trailers(trailers)),
                Err(unsendable) => Err(axum::Error::new(unsendable)),
            },
            Way::Fault => Err(axum::Error::new(status)),
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
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(context));
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !is_data {
            return Poll::Ready(frame);
        }
        if !self.has_begun {
            self.has_begun = true;
            return Poll::Ready(frame);
        }
        match self.token.check(now().wall.0) {
            Ok(()) => Poll::Ready(frame),
            Err(denied) => Poll::Ready(self.broken_off(denied)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
