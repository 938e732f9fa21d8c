//! Log-in on the page: a token, pasted once, for a session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde::Deserialize;

use super::headers::enter;
use super::refusal::Refusal;
use super::{pass, roles};
use crate::clock::now;
use crate::page;
use crate::sessions::Sessions;
use crate::tokens::{Holder, Tokens};

/// Where the form of the page sends the token.
pub const PATH: &str = "/login";
/// Bytes of the form: strangers send it.
const LARGEST: usize = 4096;
/// How long the form may be on its way: who has not logged in holds no request open.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Form {
    token: String,
}

/// What the form of the page brought.
#[derive(Debug)]
pub struct Pasted {
    token: String,
    headers: HeaderMap,
}

impl Pasted {
    /// Reads the form.
    ///
    /// # Errors
    /// The answer to one that is too large, too slow or none.
    pub async fn read(mut request: Request) -> Result<Self, Response> {
        let headers = request.headers().clone();
        DefaultBodyLimit::max(LARGEST).apply(&mut request);
        let form = axum::Form::<Form>::from_request(request, &());
        match tokio::time::timeout(PATIENCE, form).await {
            Ok(Ok(axum::Form(Form { token }))) => Ok(Self { token, headers }),
            Ok(Err(fault)) => Err(page::refused(fault.status(), fault.body_text())),
            Err(_) => {
                let why = "the form came too slowly; send it again";
                Err(page::refused(StatusCode::REQUEST_TIMEOUT, why))
            }
        }
    }
}

/// Where a request comes from, and how.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    pub from: Option<SocketAddr>,
    pub is_encrypted: bool,
}

/// How browsers log in, and their sessions.
#[derive(Debug)]
pub struct Logins {
    tokens: Arc<Tokens>,
    sessions: Arc<Sessions>,
    /// The name of the cookie that holds a session.
    cookie: String,
}

impl Logins {
    pub fn new(tokens: Arc<Tokens>, sessions: Arc<Sessions>, port: u16) -> Self {
        Self {
            tokens,
            sessions,
            cookie: pass::cookie_name(port),
        }
    }

    /// The sessions, and the name of the cookie that holds one.
    pub fn sessions(&self) -> (&Sessions, &str) {
        (&self.sessions, &self.cookie)
    }

    /// Begins a session of `holder` in place of the one that the browser has, and leads to `path`.
    pub fn begin(&self, holder: Holder, headers: &HeaderMap, visit: Visit, path: &str) -> Response {
        let wall = now().wall.0;
        for id in pass::cookies(headers, &self.cookie) {
            if let Ok(old) = self.sessions.find(id, wall) {
                self.sessions.end(old.number, &old.holder);
            }
        }
        match self.sessions.begin(holder, visit.from, wall) {
            Ok(id) => enter(pass::cookie(&self.cookie, &id, visit.is_encrypted), path),
            Err(e) => page::refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("no session can begin, since the system gives no random bytes: {e}"),
            ),
        }
    }

    /// Begins a session for the token that was pasted.
    ///
    /// # Errors
    /// The token opens nothing, or not the page.
    pub fn enter(&self, pasted: &Pasted, visit: Visit) -> Result<Response, Refusal> {
        let holder = self.tokens.by_token(pasted.token.trim())?;
        roles::check(holder.role(), &Method::GET, "/")?;
        Ok(self.begin(holder, &pasted.headers, visit, "/"))
    }
}
