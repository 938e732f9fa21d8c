//! The token, and the key that opens only the page.

use axum::extract::{Query, Request};
use axum::http::{HeaderMap, Method, header};
use qlora_access::Token;
use serde::Deserialize;

use super::origin;
use super::refusal::Refusal;

/// A browser keeps the page's key for this long.
const MONTH: u32 = 30 * 24 * 3600;

/// What lets a request pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Pass {
    /// It needs nothing.
    Open,
    /// The token, or the page's key.
    Known,
    /// The page's key in the address: a browser gets it as a cookie, and the address again without
    /// it.
    Enter,
}

#[derive(Deserialize)]
struct Address {
    token: Option<String>,
}

/// A gRPC call brings the token in its header, and nothing else counts: a browser sends cookies by
/// itself. The page takes the token, or its own key in a cookie, or either of them once in the
/// address.
pub fn check(request: &Request, token: &Token, grpc: bool) -> Result<Pass, Refusal> {
    let bearer = bearer(request.headers());
    if bearer.is_some_and(|given| token.is(given)) {
        return Ok(Pass::Known);
    }
    if grpc {
        return Err(if bearer.is_some() {
            Refusal::WrongToken
        } else {
            Refusal::NoToken
        });
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let address = Query::<Address>::try_from_uri(request.uri())
        .ok()
        .and_then(|query| query.0.token);
    if let Some(given) = &address {
        let right = token.is(given) || token.opens_page(given);
        return if right && reads {
            Ok(Pass::Enter)
        } else {
            Err(Refusal::WrongToken)
        };
    }
    let name = cookie_name(token);
    let mut cookies = cookies(request.headers(), &name).peekable();
    let brought = bearer.is_some() || cookies.peek().is_some();
    // A browser adds the cookie to whatever it sends; what changes something must show that our own
    // page sends it.
    let acts = reads || origin::is_own_page(request);
    let is_right = cookies.any(|given| token.opens_page(given));
    match (is_right, acts, brought) {
        (true, true, _) => Ok(Pass::Known),
        (true, false, _) => Err(Refusal::CookieAlone),
        (false, _, true) => Err(Refusal::WrongToken),
        (false, _, false) => Err(Refusal::NoToken),
    }
}

/// The cookie that opens the page. Browsers keep one jar for all ports of a host, so that
/// coordinators on one machine must have cookies of different names.
pub fn page_cookie(token: &Token) -> String {
    let (name, key) = (cookie_name(token), token.page_key());
    format!("{name}={key}; HttpOnly; SameSite=Strict; Path=/; Max-Age={MONTH}")
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
