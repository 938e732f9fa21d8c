//! Why a request is not let in. This is data; how a refusal is sent is the subject of `answer`.

use std::time::Duration;

use axum::http::{Method, StatusCode, Version};
use qlora_proto::Role;
use tonic::Code;

use crate::tokens::{Denied, LINK_LIFE};

/// Longer names are cut where they are repeated to who sent them.
const LONGEST_NAME: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "this coordinator does not go by the name `{}`; call it by a name of its machine, or start it with --allow-host {}",
        shown(.0),
        shown(without_port(.0))
    )]
    Host(String),
    #[error("a request must name its host once")]
    NoHost,
    #[error("pages of other origins must not call this coordinator ({}); type its address into the browser", shown(.0))]
    Origin(String),
    #[error("gRPC calls come by HTTP/2, this one came by {0:?}; use a gRPC client")]
    Version(Version),
    #[error("gRPC calls are POST requests, this one is {0}; use a gRPC client")]
    Method(Method),
    #[error("gRPC calls have the content type application/grpc; use a gRPC client")]
    ContentType,
    #[error("the call brings no token; {WAY_IN}")]
    NoToken,
    #[error("the token is not that of this coordinator; {WAY_IN}")]
    WrongToken,
    #[error("the session has ended; log in again on the page")]
    NoSession,
    #[error(
        "the link was opened before, or is older than {} minutes; print another one with qlora-ctl page",
        LINK_LIFE.as_secs() / 60
    )]
    Link,
    #[error("{}; {ANOTHER}", Denied::Expired)]
    Expired,
    #[error("{}; {ANOTHER}", Denied::Revoked)]
    Revoked,
    #[error(
        "the token has the role {has} and this needs {needs}; give a token of the role {needs}, which an admin makes with qlora-ctl token create --role {needs}"
    )]
    Role { has: Role, needs: Role },
    #[error(
        "this coordinator asks workers for a certificate; start the worker with --cert FILE and --key FILE, which qlora-coordinator certify makes"
    )]
    NoCertificate,
    #[error("too many wrong tokens come from this address; try again in {} s", .0.as_secs() + 1)]
    Busy(Duration),
    #[error("too many requests come from this address; try again in {} s", .0.as_secs() + 1)]
    TooMany(Duration),
    /// No row of `roles` says who may call it.
    #[error("no method {0}")]
    Absent(String),
    #[error(
        "a request that changes something brings the page's cookie, and nothing says that the page sends it; {HEADER} instead of the cookie, or the header `Origin` with the address of this coordinator"
    )]
    CookieAlone,
}

/// How a program that is no client of ours brings the token.
pub const HEADER: &str = "send the header `Authorization: Bearer TOKEN`";

const WAY_IN: &str = "give --token-file FILE or set QLORA_TOKEN; the token is in the file `token` of the coordinator's state folder, or in the one of its --token-file";

const ANOTHER: &str = "an admin makes another one with qlora-ctl token create";

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unknown => Self::WrongToken,
            Denied::Expired => Self::Expired,
            Denied::Revoked => Self::Revoked,
        }
    }
}

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Origin(_) | Self::Role { .. } | Self::NoCertificate => StatusCode::FORBIDDEN,
            Self::Absent(_) => StatusCode::NOT_FOUND,
            Self::Busy(_) | Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Version(_) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoToken
            | Self::NoSession
            | Self::Link
            | Self::WrongToken
            | Self::Expired
            | Self::Revoked
            | Self::CookieAlone => StatusCode::UNAUTHORIZED,
        }
    }

    pub fn code(&self) -> Code {
        match self {
            Self::NoToken
            | Self::NoSession
            | Self::Link
            | Self::WrongToken
            | Self::Expired
            | Self::Revoked
            | Self::CookieAlone => Code::Unauthenticated,
            Self::Absent(_) => Code::Unimplemented,
            Self::Busy(_) | Self::TooMany(_) => Code::ResourceExhausted,
            _ => Code::PermissionDenied,
        }
    }
}

impl Refusal {
    /// After how long the same request is looked at again, where that passes by itself.
    pub fn passes_after(&self) -> Option<Duration> {
        match self {
            Self::Busy(after) | Self::TooMany(after) => Some(*after),
            _ => None,
        }
    }

    /// Whether somebody showed a token that opens nothing.
    pub fn is_of_a_token(&self) -> bool {
        matches!(
            self,
            Self::WrongToken | Self::Link | Self::Expired | Self::Revoked
        )
    }
}

/// What a stranger sent, fit for a terminal.
fn shown(text: &str) -> String {
    text.chars()
        .take(LONGEST_NAME)
        .flat_map(char::escape_default)
        .collect()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}
