//! The hosts that this coordinator answers to: a page that makes its own name resolve to this
//! machine is refused.

use std::net::{IpAddr, SocketAddr};

use axum::extract::Request;
use axum::http::header;
use axum::http::uri::Authority;

use super::refusal::Refusal;

/// Characters of a name, and of a part of it between dots, by RFC 1035.
const LONGEST: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Names and addresses under which requests may come.
#[derive(Debug)]
pub struct Hosts {
    names: Vec<String>,
    ips: Vec<IpAddr>,
    /// It listens on all addresses: the one that a connection came to is allowed on it.
    all: bool,
    port: u16,
}

/// Reads a host as `--allow-host` takes it.
pub fn parse(text: &str) -> Result<String, String> {
    let host = plain(text.trim());
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host);
    }
    if host.len() <= LONGEST && host.split('.').all(is_label) {
        if !ends_in_number(&host) {
            return Ok(host);
        }
        return Err(format!(
            "{host} is no IP address, and no name ends with a number; write one host, such as 10.0.0.5 or gpu.example.com"
        ));
    }
    let hint = if text.contains(':') {
        "without port and without http://"
    } else {
        "in ASCII, without wildcards"
    };
    Err(format!("write one host, such as gpu.example.com, {hint}"))
}

/// Whether `part` may stand between the dots of a name. An underline is no part of a host's name by
/// the standard, and is in use.
fn is_label(part: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    (1..=LONGEST_LABEL).contains(&part.len())
        && part.chars().all(inner)
        && !part.starts_with('-')
        && !part.ends_with('-')
}

/// Such a name is an IP address to browsers, and none to who resolves names.
fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    last.bytes().all(|byte| byte.is_ascii_digit())
}

impl Hosts {
    /// Loopback, the address that is listened on, this machine's names, and `allowed` as [`parse`]
    /// gives them.
    pub fn new(listen: SocketAddr, machine: Vec<String>, allowed: &[String]) -> Self {
        let mut hosts = Self {
            names: machine,
            ips: vec![listen.ip()],
            all: listen.ip().is_unspecified(),
            port: listen.port(),
        };
        hosts.names.push("localhost".into());
        for host in allowed {
            match host.parse::<IpAddr>() {
                Ok(ip) => hosts.ips.push(ip),
                Err(_) => hosts.names.push(host.clone()),
            }
        }
        hosts
    }

    /// The port that is listened on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every host that the request names must be allowed, in its address as in `Host`; `local` is
    /// the address that the connection came to.
    pub fn check(&self, request: &Request, local: Option<SocketAddr>) -> Result<(), Refusal> {
        let mut given = 0;
        let headers = request
            .headers()
            .get_all(header::HOST)
            .iter()
            .map(|value| value.to_str().unwrap_or_default());
        for host in headers.chain(request.uri().authority().map(Authority::as_str)) {
            given += 1;
            self.check_one(host, local)?;
        }
        // HTTP/2 may repeat its :authority in one Host.
        if given == 0 || request.headers().get_all(header::HOST).iter().count() > 1 {
            return Err(Refusal::NoHost);
        }
        Ok(())
    }

    fn check_one(&self, text: &str, local: Option<SocketAddr>) -> Result<(), Refusal> {
        let refused = || Err(Refusal::Host(text.to_owned()));
        let Ok(authority) = text.parse::<Authority>() else {
            return refused();
        };
        if text.contains('@') {
            return refused();
        }
        let host = plain(authority.host());
        let allowed = match host.parse::<IpAddr>() {
            Ok(ip) => self.allows_ip(ip.to_canonical(), local.map(|at| at.ip().to_canonical())),
            Err(_) => self.names.contains(&host),
        };
        if allowed { Ok(()) } else { refused() }
    }

    fn allows_ip(&self, ip: IpAddr, local: Option<IpAddr>) -> bool {
        ip.is_loopback() || self.ips.contains(&ip) || (self.all && local == Some(ip))
    }
}

/// In small letters, without brackets and the dot of a full name.
fn plain(host: &str) -> String {
    let host = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn asked(hosts: &Hosts, host: &str, local: &str) -> bool {
        let request = Request::builder()
            .uri("/")
            .header("host", host)
            .body(Body::empty())
            .expect("a request");
        hosts
            .check(&request, Some(local.parse().expect("an address")))
            .is_ok()
    }

    fn hosts(listen: &str, allowed: &[&str]) -> Hosts {
        let allowed: Vec<String> = allowed
            .iter()
            .map(|host| parse(host).expect("a host"))
            .collect();
        Hosts::new(
            listen.parse().expect("an address"),
            vec!["head".into(), "head.local".into()],
            &allowed,
        )
    }

    #[test]
    fn loopback_the_machine_and_allowed_hosts_are_answered_with_every_port() {
        let hosts = hosts(
            "10.0.0.5:7070",
            &["Gpu.Example.com", "10.9.9.9", "[2001:db8::7]"],
        );
        for host in [
            "localhost",
            "LocalHost:7070",
            "localhost.:1",
            "127.0.0.1:8080",
            "127.8.9.1",
            "[::1]:7070",
            "head:7070",
            "HEAD.local",
            "10.0.0.5:7070",
            "gpu.example.com:443",
            "gpu.example.com.",
            "10.9.9.9",
            "[2001:db8::7]:7070",
        ] {
            assert!(asked(&hosts, host, "10.0.0.5:7070"), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "evil.example:7070",
            "127.0.0.1.evil.example",
            "10.0.0.6",
            "0.0.0.0:7070",
            "head.evil.example",
            "user@localhost",
            "localhost:7070@evil.example",
            "",
            " ",
            "http://localhost",
            "[::2]",
            "local host",
            "gpu.example.com.evil",
            "2130706433",
        ] {
            assert!(!asked(&hosts, host, "10.0.0.5:7070"), "{host:?}");
        }
    }

    #[test]
    fn on_all_addresses_the_one_that_a_connection_came_to_is_its_host() {
        let all = hosts("[::]:7070", &[]);
        assert!(asked(&all, "192.168.1.5:7070", "[::ffff:192.168.1.5]:7070"));
        assert!(asked(&all, "[2001:db8::5]:7070", "[2001:db8::5]:7070"));
        assert!(!asked(&all, "192.168.1.6:7070", "192.168.1.5:7070"));
        let one = hosts("127.0.0.1:7070", &[]);
        assert!(
            !asked(&one, "192.168.1.5:7070", "192.168.1.5:7070"),
            "it does not listen there"
        );
    }

    #[test]
    fn a_request_names_one_host_and_both_places_are_looked_at() {
        let hosts = hosts("127.0.0.1:7070", &[]);
        let request = |uri: &str, host: &[&str]| {
            let builder = Request::builder().uri(uri);
            let builder = host
                .iter()
                .fold(builder, |builder, host| builder.header("host", *host));
            builder.body(Body::empty()).expect("a request")
        };
        assert!(
            hosts
                .check(&request("http://localhost/", &[]), None)
                .is_ok()
        );
        assert!(
            hosts
                .check(&request("http://localhost/", &["127.0.0.1"]), None)
                .is_ok()
        );
        for (uri, host) in [
            ("/", [].as_slice()),
            ("/", &["localhost", "localhost"]),
            ("http://evil.example/", &["localhost"]),
            ("http://localhost/", &["evil.example"]),
            ("/", &["localhost", "evil.example"]),
        ] {
            assert!(
                hosts.check(&request(uri, host), None).is_err(),
                "{uri} {host:?}"
            );
        }
    }

    #[test]
    fn what_is_no_host_is_refused_on_the_command_line() {
        for text in [
            "",
            " ",
            "*",
            "*.example.com",
            "gpu:7070",
            "http://gpu",
            "a b",
            "gpu..example",
            "gpü",
            "user@gpu",
            "-x",
            "gpu-.example",
            "300.1.1.1",
            "gpu.7",
            "2130706433",
            &"a".repeat(64),
            &["a234567890"; 30].join("."),
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        for text in ["gpu-1.example", "g_1", "1.gpu", "7gpu", &"a".repeat(63)] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        assert!(
            parse("gpu:7070")
                .expect_err("a refusal")
                .contains("without port")
        );
    }
}
