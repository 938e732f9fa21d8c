//! Refuses pages of other origins: a browser names the page that it calls for, and only our own
//! page may call.

use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;

use super::refusal::Refusal;

/// What modern browsers send with every request: how the page that asks is related to us.
const FETCH_SITE: &str = "sec-fetch-site";

/// Programs that are no browsers send neither header, and pass.
pub fn check(request: &Request) -> Result<(), Refusal> {
    for site in request.headers().get_all(FETCH_SITE) {
        // `none` is a person who typed the address or opened it from a terminal.
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(Refusal::Origin(
                site.to_str().unwrap_or("unreadable").to_owned(),
            ));
        }
    }
    let own = own_host(request);
    for origin in request.headers().get_all(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("unreadable");
        let theirs = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        if own.is_none() || theirs.map(str::to_ascii_lowercase) != own {
            return Err(Refusal::Origin(origin.to_owned()));
        }
    }
    Ok(())
}

/// Whether a browser says that a page of this very address sends the request, which [`check`] has
/// let through.
pub fn is_own_page(request: &Request) -> bool {
    let fetched = request
        .headers()
        .get(FETCH_SITE)
        .is_some_and(|site| site.as_bytes() == b"same-origin");
    fetched || request.headers().contains_key(header::ORIGIN)
}

/// Host and port as this request has them.
fn own_host(request: &Request) -> Option<String> {
    let authority = request.uri().authority().map(Authority::as_str);
    let host = || request.headers().get(header::HOST)?.to_str().ok();
    authority.or_else(host).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn passes(headers: &[(&str, &str)]) -> bool {
        let builder = Request::builder().uri("/").header("host", "localhost:7070");
        let builder = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        check(&builder.body(Body::empty()).expect("a request")).is_ok()
    }

    #[test]
    fn our_own_page_a_typed_address_and_programs_pass() {
        assert!(passes(&[]));
        assert!(passes(&[("sec-fetch-site", "none")]));
        assert!(passes(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://localhost:7070")
        ]));
        // In front of us something may speak TLS.
        assert!(passes(&[("origin", "https://LOCALHOST:7070")]));
    }

    #[test]
    fn every_other_page_is_refused_on_whatever_port_and_machine_it_lies() {
        for origin in [
            "http://evil.example",
            "http://localhost:7071",
            "http://localhost",
            "http://127.0.0.1:7070",
            "null",
            "",
            "file://",
            "localhost:7070",
            "http://localhost:7070.evil.example",
            "http://localhost:7070/",
        ] {
            assert!(!passes(&[("origin", origin)]), "{origin:?}");
        }
        for site in ["cross-site", "same-site", "", "Same-Origin", "none, none"] {
            assert!(!passes(&[("sec-fetch-site", site)]), "{site:?}");
        }
        assert!(!passes(&[
            ("sec-fetch-site", "none"),
            ("sec-fetch-site", "cross-site")
        ]));
        assert!(!passes(&[
            ("origin", "http://localhost:7070"),
            ("origin", "http://evil.example")
        ]));
    }
}
