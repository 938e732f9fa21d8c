//! The checks that every request passes before any service sees it.
//!
//! They check, in this order, the host that the request is addressed to, the page that it comes
//! from, its form if it is a gRPC call, its token, what the role of the token may do, and, where
//! workers are asked for one, their certificate.
//! `/healthz` and gRPC's health service only tell that the coordinator is running, so they are open
//! to every host and need no token.

mod answer;
mod ending;
mod failures;
mod form;
mod headers;
mod hosts;
mod login;
mod origin;
mod pass;
mod rates;
mod refusal;
mod roles;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use governor::clock::MonotonicClock;
use qlora_proto::Role;
use tokio::time::Instant;

use self::ending::{Ending, Term, Way};
use self::failures::Failures;
pub use self::form::is_grpc_type;
use self::headers::keep_to_itself;
pub use self::hosts::{Hosts, parse as parse_host};
use self::login::{Logins, Pasted, Visit};
use self::pass::Pass;
use self::rates::Rates;
use self::refusal::Refusal;
use crate::caller::Caller;
use crate::listen::Connection;
use crate::sessions::Sessions;
use crate::tokens::Tokens;

/// What the checks need.
#[derive(Debug)]
pub struct Doors {
    hosts: Hosts,
    tokens: Arc<Tokens>,
    logins: Logins,
    failures: Failures,
    rates: Rates,
    /// Whether workers have to show a certificate too.
    asks_workers: bool,
}

impl Doors {
    pub fn new(
        hosts: Hosts,
        tokens: Arc<Tokens>,
        sessions: Arc<Sessions>,
        asks_workers: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            logins: Logins::new(tokens.clone(), sessions, hosts.port()),
            hosts,
            tokens,
            failures: Failures::default(),
            rates: Rates::new(MonotonicClock),
            asks_workers,
        })
    }

    /// What the request may do.
    fn check(&self, request: &Request, connection: Option<&Connection>) -> Result<Pass, Refusal> {
        let path = request.uri().path();
        let open = path == "/healthz" || path.starts_with("/grpc.health.v1.");
        if !open {
            self.hosts
                .check(request, connection.map(Connection::local))?;
        }
        origin::check(request)?;
        let grpc = form::is_grpc_path(path);
        if grpc {
            form::check(request)?;
        }
        if open {
            return Ok(Pass::Open);
        }
        self.check_busy(connection)?;
        let from = connection.map(|connection| connection.peer().ip());
        if path == login::PATH && *request.method() == Method::POST {
            let counted = from.map_or(Ok(()), |from| self.rates.count_stranger(from));
            counted.map_err(Refusal::TooMany)?;
            // Another page must not log a browser in as somebody else.
            return if origin::is_own_page(request) {
                Ok(Pass::LogIn)
            } else {
                Err(Refusal::Origin("none is named".to_owned()))
            };
        }
        let pass = pass::check(request, &self.tokens, self.logins.sessions(), grpc);
        let pass = pass.map_err(|refusal| self.count_stranger(refusal, from))?;
        if let Some(holder) = pass.holder() {
            if let Some(from) = from {
                let counted = self.rates.count(holder, from);
                counted.map_err(Refusal::TooMany)?;
            }
            roles::check(holder.role(), request.method(), path)?;
            let works = holder.role() == Role::Worker || roles::is_work(path);
            if self.asks_workers && works && !connection.is_some_and(Connection::is_certified) {
                return Err(Refusal::NoCertificate);
            }
        }
        Ok(pass)
    }

    /// A stranger comes from an address from which too many wrong tokens come at once.
    fn check_busy(&self, connection: Option<&Connection>) -> Result<(), Refusal> {
        let stranger = connection.filter(|connection| !connection.is_known());
        let from = stranger.map(|connection| connection.peer().ip());
        let busy = from.and_then(|from| self.failures.busy(from, Instant::now()));
        busy.map_or(Ok(()), |after| Err(Refusal::Busy(after)))
    }

    /// Takes the form of the page.
    ///
    /// # Errors
    /// The token opens nothing, or not the page; or too many wrong ones wait.
    async fn log_in(
        &self,
        request: Request,
        visit: Visit,
        connection: Option<&Connection>,
    ) -> Result<Response, Refusal> {
        match Pasted::read(request).await {
            Ok(pasted) => {
                // Many forms may have been on their way while few wrong tokens waited.
                self.check_busy(connection)?;
                self.logins.enter(&pasted, visit)
            }
            Err(answer) => Ok(answer),
        }
    }

    /// What a request gets that `refusal` is for: of too many, when it is looked at again. Those that
    /// show a wrong token are slowed instead.
    fn count_stranger(&self, refusal: Refusal, from: Option<IpAddr>) -> Refusal {
        if refusal.is_of_a_token() {
            return refusal;
        }
        let counted = from.map_or(Ok(()), |from| self.rates.count_stranger(from));
        counted.map_or_else(Refusal::TooMany, |()| refusal)
    }

    /// Waits before a refusal to who has shown wrong tokens again and again.
    async fn slow(&self, refusal: &Refusal, from: Option<SocketAddr>) {
        let Some(from) = from.filter(|_| refusal.is_of_a_token()) else {
            return;
        };
        let wait = self.failures.count(from.ip(), Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

/// The layer in front of all routes.
pub async fn guard(State(doors): State<Arc<Doors>>, request: Request, next: Next) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let from = connection.as_ref().map(|c| c.peer());
    let visit = Visit {
        from,
        is_encrypted: connection.as_ref().is_some_and(|c| c.is_encrypted()),
    };
    match doors.check(&request, connection.as_deref()) {
        Ok(Pass::Open) => next.run(request).await,
        Ok(Pass::Known(holder)) => {
            trust(connection);
            known(Caller::new(holder, from), request, next).await
        }
        Ok(Pass::Session(session)) => {
            trust(connection);
            known(Caller::in_session(session, from), request, next).await
        }
        Ok(Pass::Enter(holder)) => {
            let path = request.uri().path();
            doors.logins.begin(holder, request.headers(), visit, path)
        }
        Ok(Pass::LogIn) => match doors.log_in(request, visit, connection.as_deref()).await {
            Ok(response) => response,
            Err(refusal) => {
                doors.slow(&refusal, from).await;
                answer::ask_again(&refusal)
            }
        },
        Err(refusal) => {
            tracing::debug!(%refusal, "refused");
            let answer = answer::refuse(&refusal, &request);
            // What a stranger has sent does not lie here while it waits.
            drop(request);
            doors.slow(&refusal, from).await;
            answer
        }
    }
}

fn trust(connection: Option<Arc<Connection>>) {
    if let Some(connection) = connection {
        connection.trust();
    }
}

/// The call that ends a token, whose own it may be: it gets its answer.
const REVOKE: &str = "/qlora.v1.TokenService/RevokeToken";

/// Hands a request on with the name of its caller. What it sends and gets ends with its token.
async fn known(caller: Caller, mut request: Request, next: Next) -> Response {
    let is_page = !form::is_grpc_path(request.uri().path());
    let token = caller.holder().issued().cloned();
    request.extensions_mut().insert(caller);
    let Some(token) = token else {
        let mut response = next.run(request).await;
        if is_page {
            keep_to_itself(&mut response);
        }
        return response;
    };
    let way = if is_page { Way::Page } else { Way::Call };
    let revokes = request.uri().path() == REVOKE;
    let term = Term::of(token);
    let request = request.map(|body| Body::new(Ending::new(body, term.clone(), Way::Request)));
    if revokes {
        return next.run(request).await;
    }
    let response = tokio::select! {
        biased;
        response = next.run(request) => response,
        // A call that is held, as that of a worker without work is.
        denied = term.over(), if !is_page => {
            tonic::Status::unauthenticated(Refusal::from(denied).to_string()).into_http()
        }
    };
    let mut response = response.map(|body| Body::new(Ending::new(body, term, way)));
    if is_page {
        keep_to_itself(&mut response);
    }
    response
}

#[cfg(test)]
mod tests;
