//! Tokens, sessions of browsers, and the keys that open only the page.

use std::sync::Arc;

use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, header};
use serde::Deserialize;

use super::origin;
use super::refusal::Refusal;
use crate::clock::now;
use crate::sessions::{LIFE_MS, Session, Sessions};
use crate::tokens::{Denied, Holder, Tokens};

/// What lets a request pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// It needs nothing.
    Open,
    /// A token.
    Known(Holder),
    /// The cookie of a browser that has logged in.
    Session(Arc<Session>),
    /// The key of a link in the address, which was taken: a browser gets a session, and the address
    /// again without the key.
    Enter(Holder),
    /// The form by which a browser logs in; its token has yet to be looked at.
    LogIn,
}

impl Pass {
    /// Who asks for something that a role may or may not.
    pub fn holder(&self) -> Option<&Holder> {
        match self {
            Self::Known(holder) => Some(holder),
            Self::Session(session) => Some(&session.holder),
            Self::Open | Self::Enter(_) | Self::LogIn => None,
        }
    }
}

#[derive(Deserialize)]
struct Address {
    key: Option<String>,
}

/// A gRPC call brings the token in its header, and nothing else counts: a browser sends cookies by
/// itself. The page takes the token, or a session in the cookie `name`, or the key of a link in
/// the address, which opens it once; the token itself never stands in an address.
pub fn check(
    request: &Request,
    tokens: &Tokens,
    (sessions, name): (&Sessions, &str),
    grpc: bool,
) -> Result<Pass, Refusal> {
    let bearer = bearer(request.headers());
    match bearer.map(|given| tokens.by_token(given)) {
        Some(Ok(holder)) => return Ok(Pass::Known(holder)),
        // A session may come beside a token of something else.
        Some(Err(Denied::Unknown)) if !grpc => {}
        Some(Err(denied)) => return Err(denied.into()),
        None if grpc => return Err(Refusal::NoToken),
        None => {}
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let address = Query::<Address>::try_from_uri(request.uri())
        .ok()
        .and_then(|query| query.0.key);
    if let Some(given) = &address {
        // A program that only looks whether the link is there, with HEAD, does not use it up.
        if *request.method() != Method::GET {
            return Err(Refusal::Link);
        }
        return match tokens.by_link(given) {
            Ok(holder) => Ok(Pass::Enter(holder)),
            Err(Denied::Unknown) => Err(Refusal::Link),
            Err(over) => Err(over.into()),
        };
    }
    match by_cookie(request, sessions, name) {
        Some(Ok(session)) if reads || origin::is_own_page(request) => Ok(Pass::Session(session)),
        Some(Ok(_)) => Err(Refusal::CookieAlone),
        // Whatever comes beside it, a wrong token is counted as one.
        Some(Err(_)) | None if bearer.is_some() => Err(Refusal::WrongToken),
        Some(Err(refusal)) => Err(refusal),
        None => Err(Refusal::NoToken),
    }
}

/// The session of a browser. One that has ended stands in the way of none that goes on: browsers
/// send what they have for several paths and hosts.
fn by_cookie(
    request: &Request,
    sessions: &Sessions,
    name: &str,
) -> Option<Result<Arc<Session>, Refusal>> {
    let wall = now().wall.0;
    let mut found = None;
    for id in cookies(request.headers(), name) {
        match sessions.find(id, wall) {
            Ok(session) => return Some(Ok(session)),
            Err(Denied::Unknown) => {
                found.get_or_insert(Err(Refusal::NoSession));
            }
            Err(over) => found = Some(Err(over.into())),
        }
    }
    found
}

/// The name of the cookie. Browsers keep one jar for all ports of a host, so that coordinators on
/// one machine must have cookies of different names.
pub fn cookie_name(port: u16) -> String {
    format!("qlora_{port}")
}

/// The cookie of the session `id`. A browser has one session at a time with each coordinator. What
/// came under TLS is never sent without it.
pub fn cookie(name: &str, id: &str, is_encrypted: bool) -> String {
    let seconds = LIFE_MS / 1000;
    let secure = if is_encrypted { "; Secure" } else { "" };
    format!("{name}={id}; HttpOnly; SameSite=Strict; Path=/; Max-Age={seconds}{secure}")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(given.trim_start())
}

pub fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}
