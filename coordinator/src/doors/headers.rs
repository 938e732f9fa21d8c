//! Headers of answers that a browser reads.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Leads on with a cookie, which keeps a key out of the address bar, the history and what a page
/// tells others.
pub fn enter(cookie: String, path: &str) -> Response {
    // `//host` would lead to another host.
    let path = if path.starts_with("//") { "/" } else { path };
    let headers = [
        (header::SET_COOKIE, cookie),
        (header::LOCATION, path.to_owned()),
    ];
    let mut response = (StatusCode::SEE_OTHER, headers).into_response();
    keep_to_itself(&mut response);
    response
}

/// Other sites can neither frame nor embed what the page shows.
pub fn keep_to_itself(response: &mut Response) {
    let headers = [
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Without a referrer browsers send forms of our own page with an origin of `null`.
        (header::REFERRER_POLICY, "same-origin"),
        (
            header::HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}
