//! The rendezvous of the workers of one attempt, through the coordinator; the protocol calls it a
//! meeting.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::until_answered;
use qlora_proto::{LogLevel, MeetRequest, MeetResponse, Meeting};
use sysinfo::Networks;
use tokio::sync::mpsc;
use tonic::Response;

use super::current::Current;
use super::progress::line;
use super::work::Work;
use crate::process_group::{Listening, Rendezvous};

/// How long the coordinator may hold an answer.
const HOLD: Duration = Duration::from_secs(20);

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
    fn addresses(&self, coordinator: &str, port: u16) -> Vec<String> {
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
    let bare = coordinator.rsplit("://").next().unwrap_or(coordinator);
    let try_from = |own: &str| {
        let socket = UdpSocket::bind(own).ok()?;
        socket.connect(bare).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    try_from("0.0.0.0:0").or_else(|| try_from("[::]:0"))
}

impl Work {
    /// Says where the others find this one, until the coordinator knows.
    pub(super) fn offer(&mut self, listening: Listening) {
        let addresses = self
            .options
            .peers
            .addresses(&self.client.address, listening.port);
        self.outbox.log(line(
            LogLevel::Info,
            format!(
                "the other workers find the first at {}",
                addresses.join(", ")
            ),
        ));
        let offer = Meeting {
            addresses,
            secret: listening.secret.to_vec(),
        };
        let request = MeetRequest {
            offer: Some(offer),
            ..self.meet_request()
        };
        let (client, session) = (self.client.clone(), self.session.clone());
        self.helpers.spawn(async move {
            answer(client, &session, request)
                .await
                .map(drop)
                .unwrap_or_default()
        });
    }

    /// Where the first worker is found, as soon as it is known; nothing for the first one itself.
    pub(super) fn rendezvous(&mut self) -> mpsc::Receiver<Rendezvous> {
        let (sender, receiver) = mpsc::channel(1);
        if self.assignment.rank > 0 {
            let (client, session, request) = (
                self.client.clone(),
                self.session.clone(),
                self.meet_request(),
            );
            self.helpers.spawn(async move {
                while !sender.is_closed() {
                    let Some(response) = answer(client.clone(), &session, request.clone()).await
                    else {
                        return;
                    };
                    if let Some(found) = response.meeting.and_then(known) {
                        drop(sender.send(found).await);
                        return;
                    }
                }
            });
        }
        receiver
    }

    fn meet_request(&self) -> MeetRequest {
        let wait_ms = HOLD.as_millis() as u32;
        MeetRequest {
            session: 0,
            token: self.assignment.token,
            offer: None,
            wait_ms,
        }
    }
}

fn known(meeting: Meeting) -> Option<Rendezvous> {
    Some(Rendezvous {
        addresses: meeting.addresses,
        secret: meeting.secret.try_into().ok()?,
    })
}

/// Asks until the coordinator answers; none where the attempt is not current any more, which the
/// session hears too.
async fn answer(
    client: Client,
    session: &Current,
    mut request: MeetRequest,
) -> Option<MeetResponse> {
    let answer = until_answered(|| {
        let mut workers = client.workers.clone();
        request.session = session.get();
        let request = request.clone();
        async move { workers.meet(request).await }
    });
    answer.await.ok().map(Response::into_inner)
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
