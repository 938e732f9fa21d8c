//! The shared token: who has it may do everything.

use std::path::Path;
use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use crate::error::StartError;

/// The token, or none on a loopback address without one.
#[derive(Clone, Debug, Default)]
pub struct Token(Option<Arc<str>>);

impl Token {
    /// Reads the first line of `path`.
    pub fn read(path: Option<&Path>) -> Result<Self, StartError> {
        let Some(path) = path else { return Ok(Self(None)) };
        let fault = |fault: String| StartError::Token { path: path.into(), fault };
        let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.len() < 16 {
            return Err(fault("it is shorter than 16 characters".into()));
        }
        Ok(Self(Some(line.into())))
    }

    pub fn is_set(&self) -> bool {
        self.0.is_some()
    }

    /// Compares in time that does not depend on where the texts differ.
    fn allows(&self, given: Option<&str>) -> bool {
        let Some(wanted) = &self.0 else { return true };
        let given = given.unwrap_or_default().as_bytes();
        let difference =
            wanted.bytes().enumerate().fold(0u8, |acc, (i, b)| acc | (b ^ given.get(i).copied().unwrap_or(0)));
        difference == 0 && given.len() == wanted.len()
    }
}

#[derive(Deserialize)]
pub struct TokenQuery {
    token: Option<String>,
}

/// Lets a request through that brings the token in a header, in a cookie, or (from a browser, once) in the address.
pub async fn require(
    State(token): State<Token>,
    Query(query): Query<TokenQuery>,
    request: Request,
    next: Next,
) -> Response {
    let open = matches!(request.uri().path(), "/healthz") || request.uri().path().starts_with("/grpc.health.v1.");
    if open || token.allows(bearer(request.headers())) || token.allows(cookie(request.headers())) {
        return next.run(request).await;
    }
    if query.token.is_some() && token.allows(query.token.as_deref()) {
        let cookie = format!("qlora_token={}; HttpOnly; SameSite=Strict; Path=/", query.token.unwrap_or_default());
        let path = request.uri().path().to_owned();
        return (StatusCode::SEE_OTHER, [(header::SET_COOKIE, cookie), (header::LOCATION, path)]).into_response();
    }
    refuse(request.headers())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies.split(';').find_map(|c| c.trim().strip_prefix("qlora_token="))
}

fn refuse(headers: &HeaderMap) -> Response {
    let text = "the token is missing or wrong; set QLORA_TOKEN or --token-file to the coordinator's token";
    let is_grpc = headers.get(header::CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
        return tonic::Status::unauthenticated(text).into_http::<tonic::body::Body>().map(axum::body::Body::new);
    }
    (StatusCode::UNAUTHORIZED, format!("{text}; in a browser open this page with ?token=...\n")).into_response()
}
