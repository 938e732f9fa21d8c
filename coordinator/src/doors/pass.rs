//! Tokens, and the keys that open only the page.

use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, header};
use qlora_access::Token;
use serde::Deserialize;

use super::origin;
use super::refusal::Refusal;
use crate::tokens::{Denied, Holder, Tokens};

/// A browser keeps the page's key for this long.
const MONTH: u32 = 30 * 24 * 3600;

/// What lets a request pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// It needs nothing.
    Open,
    /// A token, or the page's key of one.
    Known(Holder),
    /// A key of the page in the address: a browser gets it as a cookie, and the address again
    /// without it.
    Enter(String),
}

#[derive(Deserialize)]
struct Address {
    token: Option<String>,
}

/// A gRPC call brings the token in its header, and nothing else counts: a browser sends cookies by
/// itself. The page takes the token, or its key in a cookie, or either of them once in the address.
pub fn check(request: &Request, tokens: &Tokens, grpc: bool) -> Result<Pass, Refusal> {
    let bearer = bearer(request.headers());
    match bearer.map(|given| tokens.by_token(given)) {
        Some(Ok(holder)) => return Ok(Pass::Known(holder)),
        // A key of the page may come beside a token of something else.
        Some(Err(Denied::Unknown)) if !grpc => {}
        Some(Err(denied)) => return Err(denied.into()),
        None if grpc => return Err(Refusal::NoToken),
        None => {}
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let address = Query::<Address>::try_from_uri(request.uri())
        .ok()
        .and_then(|query| query.0.token);
    if let Some(given) = &address {
        let key = tokens.page_key(given)?;
        return if reads {
            Ok(Pass::Enter(key))
        } else {
            Err(Refusal::WrongToken)
        };
    }
    by_cookie(request, tokens, bearer.is_some(), reads)
}

/// A browser adds the cookie to whatever it sends; what changes something must show that our own
/// page sends it.
fn by_cookie(
    request: &Request,
    tokens: &Tokens,
    mut has_brought: bool,
    reads: bool,
) -> Result<Pass, Refusal> {
    let name = cookie_name(tokens.own());
    let mut found = Err(Denied::Unknown);
    for given in cookies(request.headers(), &name) {
        has_brought = true;
        let holder = tokens.by_page_key(given);
        if !matches!(holder, Err(Denied::Unknown)) {
            found = holder;
        }
    }
    match found {
        Ok(holder) if reads || origin::is_own_page(request) => Ok(Pass::Known(holder)),
        Ok(_) => Err(Refusal::CookieAlone),
        Err(denied) if has_brought => Err(denied.into()),
        Err(_) => Err(Refusal::NoToken),
    }
}

/// The cookie that opens the page with `key`. Browsers keep one jar for all ports of a host, so that
/// coordinators on one machine must have cookies of different names; `own` is the first token of
/// this one. A browser has one key at a time of each: the link that was opened last. What came under
/// TLS is never sent without it.
pub fn page_cookie(own: &Token, key: &str, is_encrypted: bool) -> String {
    let name = cookie_name(own);
    let secure = if is_encrypted { "; Secure" } else { "" };
    format!("{name}={key}; HttpOnly; SameSite=Strict; Path=/; Max-Age={MONTH}{secure}")
}

fn cookie_name(token: &Token) -> String {
    let label: String = token.page_key().chars().take(8).collect();
    format!("qlora_{label}")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, given) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(given.trim_start())
}

fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}
