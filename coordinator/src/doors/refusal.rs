//! Why a request is not let in, in the words of who asked: gRPC, a browser, or a program.

use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use tonic::Code;

use crate::page;

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
    #[error(
        "a request that changes something brings the page's cookie, and nothing says that the page sends it; {HEADER} instead of the cookie, or the header `Origin` with the address of this coordinator"
    )]
    CookieAlone,
}

/// How a program that is no client of ours brings the token.
const HEADER: &str = "send the header `Authorization: Bearer TOKEN`";

const WAY_IN: &str = "give --token-file FILE or set QLORA_TOKEN; the token is in the file `token` of the coordinator's state folder, or in the one of its --token-file";

impl Refusal {
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::NoHost => StatusCode::BAD_REQUEST,
            Self::Origin(_) => StatusCode::FORBIDDEN,
            Self::Version(_) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NoToken | Self::WrongToken | Self::CookieAlone => StatusCode::UNAUTHORIZED,
        }
    }

    fn code(&self) -> Code {
        match self {
            Self::NoToken | Self::WrongToken | Self::CookieAlone => Code::Unauthenticated,
            _ => Code::PermissionDenied,
        }
    }

    pub fn answer(&self, request: &Request) -> Response {
        if request.version() == Version::HTTP_2 && super::is_grpc_type(request) {
            return tonic::Status::new(self.code(), self.to_string()).into_http();
        }
        let mut response = match self {
            Self::NoToken | Self::WrongToken if wants_page(request) => {
                page::no_entry().into_response()
            }
            Self::NoToken | Self::WrongToken => {
                format!("{self}; over HTTP, {HEADER}\n").into_response()
            }
            _ => format!("{self}\n").into_response(),
        };
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self, Self::Method(_)) {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

fn wants_page(request: &Request) -> bool {
    let accepts = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    accepts.is_some_and(|kinds| kinds.contains("text/html"))
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
