//! Who makes a request: by which token, and from where.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::Extensions;
use qlora_proto::Role;
use qlora_store::By;

use crate::clock::now;
use crate::sessions::Session;
use crate::tokens::{Denied, Holder};

/// Who makes a request. `doors::guard` puts it among the request's extensions.
#[derive(Debug, Clone)]
pub struct Caller {
    holder: Holder,
    from: Option<SocketAddr>,
    session: Option<Arc<Session>>,
}

impl Caller {
    pub fn new(holder: Holder, from: Option<SocketAddr>) -> Self {
        Self {
            holder,
            from,
            session: None,
        }
    }

    /// Who asks in a browser.
    pub fn in_session(session: Arc<Session>, from: Option<SocketAddr>) -> Self {
        Self {
            holder: session.holder.clone(),
            from,
            session: Some(session),
        }
    }

    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    pub fn session(&self) -> Option<&Arc<Session>> {
        self.session.as_ref()
    }

    /// What the forms of its page bring; empty for a program that brings a token.
    pub fn form_key(&self) -> &str {
        self.session.as_ref().map_or("", |one| one.form_key())
    }

    /// Whether this caller may do something to a job.
    pub fn acts(&self) -> bool {
        matches!(self.holder.role(), Role::Admin | Role::Submitter)
    }

    /// Whether this caller may send nothing, only look.
    pub fn only_looks(&self) -> bool {
        self.holder.role() == Role::Viewer
    }

    pub fn is_worker(&self) -> bool {
        self.holder.role() == Role::Worker
    }

    /// What the journal says of a request to `act`.
    pub fn by(&self, act: &str) -> By {
        By {
            who: self.holder.who(),
            from: self.from.map(|at| at.to_string()).unwrap_or_default(),
            act: act.into(),
        }
    }

    /// Whether the token that let this request in is still in force.
    ///
    /// # Errors
    /// It has expired or was revoked meanwhile.
    pub fn check(&self) -> Result<(), Denied> {
        self.holder
            .issued()
            .map_or(Ok(()), |token| token.check(now().wall.0))
    }
}

/// The caller of a request. None has passed the doors without one.
pub fn of(extensions: &Extensions) -> Option<&Caller> {
    extensions.get()
}

/// What the journal says of a request to `act`.
pub fn by(extensions: &Extensions, act: &str) -> Option<By> {
    of(extensions).map(|caller| caller.by(act))
}
