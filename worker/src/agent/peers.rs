//! Where the other workers of an attempt reach this one.

use std::net::{IpAddr, UdpSocket};

use qlora_client::Address;
use sysinfo::Networks;

/// Where other workers reach this one.
#[derive(Debug, Clone, Default)]
pub struct Peers {
    /// Instead of every address of this machine.
    pub host: Option<String>,
    /// 0 is any free one.
    pub port: u16,
}

impl Peers {
    /// The same for worker `i` of this program, counted from 0: a port that is given is the first
    /// of as many.
    pub fn of_worker(&self, i: usize) -> Self {
        let port = if self.port == 0 {
            0
        } else {
            self.port.saturating_add(i as u16)
        };
        Self {
            host: self.host.clone(),
            port,
        }
    }

    /// host:port, the likeliest first: the way on which the coordinator is reached is one on which
    /// others come too.
    pub fn addresses(&self, coordinator: &str, port: u16) -> Vec<String> {
        if let Some(host) = &self.host {
            return vec![format!("{host}:{port}")];
        }
        let mut found: Vec<IpAddr> = on_the_way_to(coordinator).into_iter().collect();
        // Where the system does not list them, the way to the coordinator has to do.
        let networks = Networks::new_with_refreshed_list().ok();
        let all = networks
            .iter()
            .flat_map(|all| all.values())
            .flat_map(|own| own.ip_networks())
            .map(|own| own.addr);
        // Addresses of one link only would need to name it.
        let far = |ip: &IpAddr| {
            !ip.is_loopback() && !matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
        };
        for ip in all.filter(far) {
            if !found.contains(&ip) {
                found.push(ip);
            }
        }
        found
            .into_iter()
            .map(|ip| std::net::SocketAddr::new(ip, port).to_string())
            .collect()
    }
}

/// This machine's address on the way to the coordinator; nothing is sent.
fn on_the_way_to(coordinator: &str) -> Option<IpAddr> {
    let Address { host, port, .. } = Address::parse(coordinator).ok()?;
    let try_from = |own: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect((host.as_str(), port)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    try_from("0.0.0.0:0").or_else(|| try_from("[::]:0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_coordinator_comes_first_and_a_given_host_is_the_only_one() {
        let own = Peers::default().addresses("http://127.0.0.1:7070", 7171);
        assert_eq!(own.first().map(String::as_str), Some("127.0.0.1:7171"));
        assert!(
            own.iter().all(|address| address.ends_with(":7171")),
            "{own:?}"
        );
        assert_eq!(
            own.iter()
                .filter(|address| address.starts_with("127."))
                .count(),
            1,
            "{own:?}"
        );
        let named = Peers {
            host: Some("gpu-1.internal".into()),
            port: 7171,
        };
        assert_eq!(
            named.addresses("127.0.0.1:7070", 7171),
            ["gpu-1.internal:7171"]
        );
        assert_eq!([0, 2].map(|i| named.of_worker(i).port), [7171, 7173]);
        assert_eq!(Peers::default().of_worker(2).port, 0);
    }
}
