//! The checks that every request passes before any service sees it.
//!
//! They check, in this order, the host that the request is addressed to, the page that it comes
//! from, its form if it is a gRPC call, and its token. `/healthz` and gRPC's health service only
//! tell that the coordinator is running, so they are open to every host and need no token.

mod answer;
mod form;
mod hosts;
mod origin;
mod pass;
mod refusal;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use qlora_access::Token;

pub use self::hosts::{Hosts, parse as parse_host};
use self::pass::{Pass, page_cookie};
use self::refusal::Refusal;
use crate::listen::Connection;

/// What the checks need.
#[derive(Debug)]
pub struct Doors {
    hosts: Hosts,
    token: Token,
}

impl Doors {
    pub fn new(hosts: Hosts, token: Token) -> Arc<Self> {
        Arc::new(Self { hosts, token })
    }

    /// What the request may do.
    fn check(&self, request: &Request, local: Option<SocketAddr>) -> Result<Pass, Refusal> {
        let path = request.uri().path();
        let open = path == "/healthz" || path.starts_with("/grpc.health.v1.");
        if !open {
            self.hosts.check(request, local)?;
        }
        origin::check(request)?;
        let grpc = form::is_grpc_path(path);
        if grpc {
            form::check(request)?;
        }
        if open {
            return Ok(Pass::Open);
        }
        pass::check(request, &self.token, grpc)
    }
}

/// The layer in front of all routes.
pub async fn guard(State(doors): State<Arc<Doors>>, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    match doors.check(&request, connection.as_ref().map(|c| c.local())) {
        Ok(Pass::Open) => next.run(request).await,
        Ok(Pass::Known) => {
            if let Some(connection) = connection {
                connection.trust();
            }
            let page = !form::is_grpc_path(request.uri().path());
            let mut response = next.run(request).await;
            if page {
                keep_to_itself(&mut response);
            }
            response
        }
        Ok(Pass::Enter) => enter(&doors.token, request.uri().path()),
        Err(refusal) => {
            tracing::debug!(%refusal, "refused");
            answer::refuse(&refusal, &request)
        }
    }
}

/// Keeps the key out of the address bar, the history and what a page tells others.
fn enter(token: &Token, path: &str) -> Response {
    // `//host` would lead to another host.
    let path = if path.starts_with("//") { "/" } else { path };
    let headers = [
        (header::SET_COOKIE, page_cookie(token)),
        (header::LOCATION, path.to_owned()),
    ];
    let mut response = (StatusCode::SEE_OTHER, headers).into_response();
    keep_to_itself(&mut response);
    response
}

/// Other sites can neither frame nor embed what the page shows.
fn keep_to_itself(response: &mut Response) {
    let headers = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests;
