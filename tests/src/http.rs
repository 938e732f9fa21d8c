//! Requests as a browser, a scraper or a stranger sends them: over HTTP/1.1, without a client that
//! would mend them.

use std::io::{Read, Write};
use std::net::TcpStream;

/// What came back.
pub struct Answer {
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// Head and body as text.
    pub fn text(&self) -> String {
        format!("{}{}", self.head, String::from_utf8_lossy(&self.body))
    }
}

/// Sends one request over a connection of its own. `Host` is `localhost` where `headers` have none.
///
/// # Panics
/// Nobody answers, or with something that is not HTTP.
pub fn http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    try_http(address, method, path, headers, body).expect("an answer")
}

/// As [`http`], where nobody may be there, or go away in the middle.
///
/// # Errors
/// The connection is not made, or broken off.
///
/// # Panics
/// The answer is not HTTP.
pub fn try_http(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    let host = if headers.iter().any(|(name, _)| *name == "Host") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let more: String = headers
        .iter()
        .map(|(name, value)| format!("{name}: {value}\r\n"))
        .collect();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{host}{more}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?
        + 4;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    Ok(Answer {
        status,
        head,
        body: answer[end..].to_vec(),
    })
}
