//! The address of a coordinator as a person writes it: HOST:PORT, or a URL of http or https.

use std::net::IpAddr;

use tonic::transport::{Endpoint, Uri};

/// Where a URL names no port.
const HTTP_PORT: u16 = 80;
const HTTPS_PORT: u16 = 443;

/// What an address says of the way to talk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// HOST:PORT alone.
    Unsaid,
    Http,
    Https,
}

/// An address that names a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    /// A name or an IP address, without brackets.
    pub host: String,
    pub port: u16,
    /// The text names the port; else it is that of the scheme.
    pub names_port: bool,
    /// Host and port as requests name them.
    pub authority: String,
}

/// The addresses of several coordinators, which a person writes with commas between them.
pub fn several(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

impl Address {
    /// # Errors
    /// What is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("nothing stands there, such as before or behind a comma".into());
        }
        let endpoint = Endpoint::from_shared(url(text)).map_err(|e| e.to_string())?;
        let uri = endpoint.uri();
        let Some(host) = uri.host().filter(|host| !host.is_empty()) else {
            return Err("the host is missing".into());
        };
        let scheme = match uri.scheme_str() {
            _ if !text.contains("://") => Scheme::Unsaid,
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("only http and https are spoken".into()),
        };
        let (port, names_port) = port(scheme, uri)?;
        if !matches!(
            uri.path_and_query().map_or("", |path| path.as_str()),
            "" | "/"
        ) {
            return Err("a coordinator has no path; leave away what stands behind the port".into());
        }
        Ok(Self {
            scheme,
            host: host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port,
            names_port,
            authority: format!("{host}:{port}"),
        })
    }

    /// Whether it is of this machine alone, by what it says.
    pub fn is_loopback(&self) -> bool {
        let ip: Result<IpAddr, _> = self.host.parse();
        self.host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
    }
}

/// The port of a URL, and whether it is named there; a plain HOST:PORT must name it, since nothing
/// here listens on that of HTTP.
fn port(scheme: Scheme, uri: &Uri) -> Result<(u16, bool), &'static str> {
    let is_named =
        uri.port().is_some() || uri.authority().is_some_and(|a| ends_like_port(a.as_str()));
    match (uri.port_u16(), is_named, scheme) {
        (Some(port), _, _) if port > 0 => Ok((port, true)),
        (_, true, _) => Err("its port is not a number from 1 to 65535"),
        (_, false, Scheme::Http) => Ok((HTTP_PORT, false)),
        (_, false, Scheme::Https) => Ok((HTTPS_PORT, false)),
        (_, false, Scheme::Unsaid) => Err("the port is missing"),
    }
}

/// Whether a colon that no bracket of an IPv6 address holds stands before the end.
fn ends_like_port(authority: &str) -> bool {
    authority
        .rsplit(']')
        .next()
        .is_some_and(|rest| rest.contains(':'))
}

fn url(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_a_host_a_port_and_perhaps_the_way_to_talk() {
        for (text, scheme, host, port) in [
            ("127.0.0.1:7070", Scheme::Unsaid, "127.0.0.1", 7070),
            ("[::1]:7070", Scheme::Unsaid, "::1", 7070),
            ("http://host:7070/", Scheme::Http, "host", 7070),
            ("http://proxy", Scheme::Http, "proxy", 80),
            ("https://proxy", Scheme::Https, "proxy", 443),
            ("https://[::1]:7070", Scheme::Https, "::1", 7070),
        ] {
            let found = Address::parse(text).expect(text);
            assert_eq!(
                (found.scheme, found.host.as_str(), found.port),
                (scheme, host, port),
                "{text}"
            );
            assert_eq!(found.names_port, text.contains(&port.to_string()), "{text}");
        }
        assert_eq!(
            Address::parse("https://[::1]").expect("one").authority,
            "[::1]:443"
        );
    }

    #[test]
    fn what_is_no_address_is_told() {
        for (text, words) in [
            ("ftp://host:7070", "only http and https"),
            ("localhost", "the port is missing"),
            ("10.0.0.5", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("localhost:0", "1 to 65535"),
            ("localhost:", "1 to 65535"),
            ("", "a comma"),
            ("https://host:7070/foo", "no path"),
            ("host:7070/foo", "no path"),
            ("http://host:7070/?key=x", "no path"),
        ] {
            let fault = Address::parse(text).expect_err(text);
            assert!(fault.contains(words), "{text}: {fault}");
        }
        for text in ["localhost:99999", "http://host:70700", "host:port"] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }
}
