//! The form of a gRPC call, which a page cannot make a browser send without asking first.

use axum::extract::Request;
use axum::http::{Method, Version, header};

use super::refusal::Refusal;

/// A method of gRPC is `/package.Service/Method`; no page has a dot in the first of two parts.
pub fn is_grpc_path(path: &str) -> bool {
    path.trim_start_matches('/')
        .split_once('/')
        .is_some_and(|(service, _)| service.contains('.'))
}

/// A page can make a browser post a form or a text, but not speak HTTP/2 without TLS, nor send
/// gRPC's content type without asking first.
pub fn check(request: &Request) -> Result<(), Refusal> {
    if request.version() != Version::HTTP_2 {
        return Err(Refusal::Version(request.version()));
    }
    if request.method() != Method::POST {
        return Err(Refusal::Method(request.method().clone()));
    }
    if !is_grpc_type(request) {
        return Err(Refusal::ContentType);
    }
    Ok(())
}

/// `application/grpc`, perhaps with the encoding of messages; gRPC-Web is another type.
pub fn is_grpc_type(request: &Request) -> bool {
    let mut types = request.headers().get_all(header::CONTENT_TYPE).iter();
    let (Some(kind), None) = (types.next(), types.next()) else {
        return false;
    };
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || matches!(rest[0], b'+' | b';'))
}
