//! The search for the record of an address that a client calls.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::record::{self, Read, Wire};
use crate::token::Token;
use crate::{machine, records_folder};

/// What a search finds.
#[derive(Debug)]
pub enum Found {
    Token(Token),
    /// Only the record of a coordinator that is gone.
    Stale,
    Nothing,
}

/// The records that may belong to an address, looked at anew each time: the coordinator may start
/// after the client.
#[derive(Debug, Clone, Default)]
pub struct Search {
    records: Vec<PathBuf>,
}

impl Search {
    /// `host` is a name or an IP address, in brackets or not. Only addresses of this machine have
    /// records: a token is never sent to another machine unasked, whatever its name resolves to.
    pub fn new(host: &str, port: u16) -> Self {
        records_folder()
            .map(|folder| Self::within(&folder, host, port))
            .unwrap_or_default()
    }

    fn within(folder: &Path, host: &str, port: u16) -> Self {
        let ips = listeners(host, &machine::names());
        Self {
            records: ips
                .into_iter()
                .map(|ip| record::path(folder, SocketAddr::new(ip, port)))
                .collect(),
        }
    }

    pub fn find(&self) -> Found {
        let mut found = Found::Nothing;
        for path in &self.records {
            match record::read(path) {
                Read::Live(token, _) => return Found::Token(token),
                Read::Stale => found = Found::Stale,
                Read::Missing => {}
            }
        }
        found
    }

    /// The certificates, in PEM, of a coordinator that spoke TLS and is gone; empty where those of the
    /// system knew it. None where none did.
    pub fn last_ca(&self) -> Option<String> {
        let mut all = self.records.iter();
        all.find_map(|path| record::last_ca(path))
    }

    /// How the coordinator whose token [`Self::find`] gives is spoken to. None where there is none.
    pub fn wire(&self) -> Option<Wire> {
        self.records
            .iter()
            .find_map(|path| match record::read(path) {
                Read::Live(_, wire) => Some(wire),
                Read::Stale | Read::Missing => None,
            })
    }
}

/// Whether `host`, a name or an IP address, in brackets or not, is this machine: what is sent there
/// goes over no network.
pub fn is_local(host: &str) -> bool {
    !listeners(host, &machine::names()).is_empty()
}

/// The addresses of this machine on which a listener answers who calls `host`.
fn listeners(host: &str, names: &[String]) -> Vec<IpAddr> {
    const ALL4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    const ALL6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    const LOOP4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LOOP6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .trim_end_matches('.')
        .to_ascii_lowercase();
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => vec![ip, if ip.is_ipv4() { LOOP4 } else { LOOP6 }, ALL6],
        Ok(ip) if !machine::owns(ip) => Vec::new(),
        Ok(ip) if ip.is_ipv4() => vec![ip, ALL4, ALL6],
        Ok(ip) => vec![ip, ALL6],
        Err(_) if host == "localhost" => vec![LOOP4, LOOP6, ALL4, ALL6],
        Err(_) if names.contains(&host) => vec![ALL4, ALL6],
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record;

    fn found(folder: &Path, host: &str, port: u16) -> Option<String> {
        match Search::within(folder, host, port).find() {
            Found::Token(token) => Some(token.secret().to_owned()),
            Found::Stale | Found::Nothing => None,
        }
    }

    fn leave(folder: &Path, address: &str, token: &str) -> Record {
        leave_speaking(folder, address, token, &Wire::Plain)
    }

    fn leave_speaking(folder: &Path, address: &str, token: &str, wire: &Wire) -> Record {
        let token = Token::parse(token, "test").expect("a token");
        let address = address.parse().expect("an address");
        Record::leave_in(folder, address, &token, wire).expect("a record")
    }

    #[test]
    fn that_a_coordinator_spoke_tls_is_known_until_another_one_takes_its_place() {
        let home = tempfile::tempdir().expect("a folder");
        let search = Search::within(home.path(), "127.0.0.1", 1);
        let file = home.path().join("127.0.0.1:1");
        let ca = "a certificate\n".to_owned();
        let tls = Wire::Tls { ca: ca.clone() };
        let leave_tls = || leave_speaking(home.path(), "127.0.0.1:1", "secret", &tls);
        let one = leave_tls();
        assert_eq!(search.last_ca(), None, "it is not gone");
        drop(one);
        let is_known = || {
            assert!(matches!(search.find(), Found::Stale));
            assert_eq!(search.last_ca().as_ref(), Some(&ca));
            let left = std::fs::read_to_string(&file).expect("what it left");
            assert!(!left.contains("secret"), "a token of nobody lies about");
        };
        is_known();
        // Of one that was killed, a coordinator at another address leaves as much.
        let left = std::fs::read_to_string(&file).expect("what it left");
        std::fs::write(&file, format!("secret{left}")).expect("what a killed one leaves");
        assert_eq!(search.last_ca().as_ref(), Some(&ca));
        let _other = leave(home.path(), "127.0.0.1:2", "other");
        is_known();
        drop(leave(home.path(), "127.0.0.1:1", "plain"));
        assert_eq!(search.last_ca(), None);
        assert!(matches!(search.find(), Found::Nothing));
    }

    #[test]
    fn every_way_to_write_a_local_address_finds_its_listener() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        let _records = [
            leave(folder, "127.0.0.1:1", "v4"),
            leave(folder, "[::1]:2", "v6"),
            leave(folder, "0.0.0.0:3", "all4"),
            leave(folder, "[::]:4", "all6"),
        ];
        let cases = [
            ("127.0.0.1", 1, "v4"),
            ("localhost", 1, "v4"),
            ("LOCALHOST.", 1, "v4"),
            ("0.0.0.0", 1, "v4"),
            ("[::1]", 2, "v6"),
            ("::1", 2, "v6"),
            ("localhost", 2, "v6"),
            ("127.0.0.1", 3, "all4"),
            ("localhost", 3, "all4"),
            ("127.0.0.1", 4, "all6"),
            ("[::1]", 4, "all6"),
        ];
        for (host, port, token) in cases {
            assert_eq!(
                found(folder, host, port).as_deref(),
                Some(token),
                "{host}:{port}"
            );
        }
        for host in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0"] {
            assert!(is_local(host), "{host}");
        }
        for name in machine::names() {
            assert_eq!(found(folder, &name, 3).as_deref(), Some("all4"), "{name}");
        }
    }

    #[test]
    fn another_port_and_another_machine_find_nothing() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = home.path();
        let _records = [
            leave(folder, "127.0.0.1:1", "here"),
            leave(folder, "0.0.0.0:3", "all4"),
        ];
        assert_eq!(found(folder, "127.0.0.1", 2), None);
        for host in [
            "192.0.2.1",
            "example.com",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "[2001:db8::1]",
        ] {
            assert_eq!(found(folder, host, 3), None, "{host}");
            assert!(!is_local(host), "{host}");
        }
    }

    #[test]
    fn a_coordinator_that_starts_after_the_search_was_made_is_found() {
        let home = tempfile::tempdir().expect("a folder");
        let search = Search::within(home.path(), "127.0.0.1", 1);
        assert!(matches!(search.find(), Found::Nothing));
        assert_eq!(search.wire(), None);
        let record = leave(home.path(), "127.0.0.1:1", "late");
        assert!(matches!(search.find(), Found::Token(token) if token.is("late")));
        assert_eq!(search.wire(), Some(Wire::Plain));
        drop(record);
        assert_eq!(search.wire(), None);
        let left = home.path().join("127.0.0.1:1");
        std::fs::write(&left, "killed\n").expect("what a killed coordinator leaves");
        assert!(matches!(search.find(), Found::Stale));
    }
}
