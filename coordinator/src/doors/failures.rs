//! Slows who shows wrong tokens again and again.
//!
//! Nobody guesses 256 random bits, but a token that a person chose may be short, and each try costs
//! a line of the log. Only refusals wait, one behind the other; who shows a right token from the
//! same address does not, until so many refusals wait that more tokens are tried at once than a
//! person or a fleet would. From then on nobody looks at what strangers of that address bring, so
//! that guesses in parallel are not faster, and those that wait are few.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong tokens that cost nothing: a person tries another file, a fleet meets a new token.
const FREE: u32 = 10;
/// Silence after which an address begins anew.
const FORGET: Duration = Duration::from_secs(60);
/// Addresses that are remembered. When all places are taken, the one that was silent for the
/// longest time makes room.
const ADDRESSES: usize = 4096;
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// How long the queue of an address's refusals may be while further tokens are looked at.
const QUEUE: Duration = Duration::from_secs(10);

/// Failed authentications by the addresses that they came from.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Failed>>);

#[derive(Debug)]
struct Failed {
    times: u32,
    last: Instant,
    /// When the last of its refusals that wait is sent.
    free: Instant,
}

impl Failures {
    /// Counts a wrong token; the refusal waits for what this gives, behind those before it.
    pub fn count(&self, from: IpAddr, now: Instant) -> Duration {
        let from = network(from);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(&from) {
            make_room(&mut all, now);
        }
        let failed = all.entry(from).or_insert(Failed {
            times: 0,
            last: now,
            free: now,
        });
        if is_forgotten(failed, now) {
            failed.times = 0;
        }
        failed.times = failed.times.saturating_add(1);
        failed.last = now;
        let Some(beyond) = failed.times.checked_sub(FREE + 1) else {
            return Duration::ZERO;
        };
        if beyond == 0 {
            tracing::warn!(%from, "{FREE} wrong tokens came from this address; its refusals are slowed");
        }
        let step = SHORTEST.saturating_mul(1 << beyond.min(16)).min(LONGEST);
        failed.free = failed.free.max(now) + step;
        failed.free.saturating_duration_since(now)
    }

    /// How long nobody looks at what a stranger of this address brings; none where somebody does.
    pub fn busy(&self, from: IpAddr, now: Instant) -> Option<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = all.get(&network(from))?;
        let queue = failed.free.saturating_duration_since(now);
        queue.checked_sub(QUEUE).filter(|wait| !wait.is_zero())
    }
}

fn is_forgotten(failed: &Failed, now: Instant) -> bool {
    now.saturating_duration_since(failed.last) > FORGET
}

fn make_room(all: &mut HashMap<IpAddr, Failed>, now: Instant) {
    if all.len() < ADDRESSES {
        return;
    }
    all.retain(|_, failed| !is_forgotten(failed, now));
    if all.len() < ADDRESSES {
        return;
    }
    let oldest = all.iter().min_by_key(|(_, failed)| failed.last);
    if let Some(oldest) = oldest.map(|(from, _)| *from) {
        all.remove(&oldest);
    }
}

/// One host has as many IPv6 addresses as it likes, all of one network.
pub(super) fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn wrong_tokens_of_one_address_wait_longer_and_longer_and_those_of_others_do_not() {
        let (failures, now) = (Failures::default(), Instant::now());
        for _ in 0..FREE {
            assert_eq!(failures.count(ip("10.0.0.1"), now), Duration::ZERO);
        }
        // One after the other: each comes when the refusal before it was sent.
        let mut at = now;
        let mut next = || {
            let wait = failures.count(ip("10.0.0.1"), at);
            at += wait;
            wait.as_millis()
        };
        let waits: Vec<_> = (0..8).map(|_| next()).collect();
        assert_eq!(waits, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(failures.count(ip("::ffff:10.0.0.1"), at), LONGEST);
        assert_eq!(failures.busy(ip("10.0.0.1"), at), None);
        assert_eq!(failures.count(ip("10.0.0.2"), now), Duration::ZERO);
        let later = at + FORGET + Duration::from_secs(1);
        assert_eq!(failures.count(ip("10.0.0.1"), later), Duration::ZERO);
    }

    #[test]
    fn wrong_tokens_in_parallel_are_no_faster_and_few_of_them_wait() {
        let (failures, now) = (Failures::default(), Instant::now());
        let from = ip("10.0.0.1");
        let mut looked_at = 0;
        for _ in 0..1000 {
            if failures.busy(from, now).is_none() {
                failures.count(from, now);
                looked_at += 1;
            }
        }
        // Ten that are free, six of 3.15 s together, and four of 2 s each.
        assert_eq!(looked_at, FREE + 10);
        let wait = failures.busy(from, now).expect("a wait");
        assert_eq!(wait, Duration::from_millis(1150));
        assert_eq!(failures.busy(ip("10.0.0.2"), now), None);
        assert_eq!(failures.busy(from, now + wait), None);
        // One more is looked at for each refusal that was sent.
        failures.count(from, now + wait);
        assert_eq!(failures.busy(from, now + wait), Some(LONGEST));
    }

    #[test]
    fn one_network_of_ipv6_counts_as_one_address() {
        let (failures, now) = (Failures::default(), Instant::now());
        for host in 0..FREE {
            failures.count(ip(&format!("2001:db8:0:1::{host:x}")), now);
        }
        assert!(failures.count(ip("2001:db8:0:1:ffff::1"), now) > Duration::ZERO);
        assert_eq!(failures.count(ip("2001:db8:0:2::1"), now), Duration::ZERO);
    }

    #[test]
    fn however_many_addresses_there_are_the_table_stays_bounded() {
        let (failures, start) = (Failures::default(), Instant::now());
        let address = |i: u32| IpAddr::from(i.to_be_bytes());
        for i in 0..ADDRESSES as u32 + 500 {
            failures.count(address(i), start + Duration::from_micros(u64::from(i)));
        }
        let kept = failures.0.lock().expect("a lock");
        assert_eq!(kept.len(), ADDRESSES);
        assert!(!kept.contains_key(&address(0)), "the oldest one stayed");
    }
}
