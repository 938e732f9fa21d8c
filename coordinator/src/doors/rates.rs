//! How many requests one caller may make. Further ones are refused with the time after which they
//! are looked at again, so that a program that asks without end takes nothing from the others.
//!
//! A caller is a token at an address: the workers of a fleet share a token, and not a machine. Who
//! shows none is an address alone; who shows a wrong one is slowed by `failures`.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use super::failures::network;
use crate::tokens::Holder;

/// Requests of one token at one address: so many in a second for as long as it likes, and so many at
/// once after a while without. Ten thousand workers behind one address stay below it.
const KNOWN: Quota = quota(20_000, 100_000);
/// The same of an address that shows no token.
const STRANGERS: Quota = quota(100, 1_000);
/// Callers that are remembered before those that have been silent are forgotten.
const CALLERS: usize = 4096;

const fn quota(per_second: u32, at_once: u32) -> Quota {
    match (NonZeroU32::new(per_second), NonZeroU32::new(at_once)) {
        (Some(per_second), Some(at_once)) => Quota::per_second(per_second).allow_burst(at_once),
        _ => panic!("a quota of nothing"),
    }
}

/// What callers have used of what they may.
#[derive(Debug)]
pub struct Rates<C: Clock = MonotonicClock> {
    /// By the number of the token; none for the first one.
    known: Counted<(Option<u64>, IpAddr), C>,
    strangers: Counted<IpAddr, C>,
}

impl<C: Clock + Clone> Rates<C> {
    pub fn new(clock: C) -> Self {
        Self {
            known: Counted::new(KNOWN, clock.clone()),
            strangers: Counted::new(STRANGERS, clock),
        }
    }

    /// Counts a request of `holder`.
    ///
    /// # Errors
    /// There were too many; the time after which the next one is taken.
    pub fn count(&self, holder: &Holder, from: IpAddr) -> Result<(), Duration> {
        let token = holder.issued().map(|token| token.id);
        self.known.count(&(token, network(from)))
    }

    /// Counts a request without a token.
    ///
    /// # Errors
    /// As [`Self::count`].
    pub fn count_stranger(&self, from: IpAddr) -> Result<(), Duration> {
        self.strangers.count(&network(from))
    }
}

/// Requests by who sends them.
struct Counted<K, C: Clock>
where
    K: Clone + Eq + Hash,
{
    limiter: RateLimiter<K, HashMapStateStore<K>, C, NoOpMiddleware<C::Instant>>,
    /// How many may be remembered until the silent ones are forgotten again.
    room: AtomicUsize,
}

impl<K: Clone + Eq + Hash, C: Clock> Counted<K, C> {
    fn new(quota: Quota, clock: C) -> Self {
        Self {
            limiter: RateLimiter::hashmap_with_clock(quota, clock),
            room: AtomicUsize::new(CALLERS),
        }
    }

    fn count(&self, who: &K) -> Result<(), Duration> {
        if self.limiter.len() >= self.room.load(Relaxed) {
            self.limiter.retain_recent();
            // Twice of what stays, so that a crowd is not looked through at each request.
            self.room
                .store(CALLERS.max(2 * self.limiter.len()), Relaxed);
        }
        let now = || self.limiter.clock().now();
        let counted = self.limiter.check_key(who);
        counted.map_err(|early| early.wait_time_from(now()))
    }
}

impl<K: Clone + Eq + Hash, C: Clock> fmt::Debug for Counted<K, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callers", self.limiter.len())
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;
    use qlora_access::{Fingerprint, Token};
    use qlora_store::TokenRecord;

    use super::*;
    use crate::tokens::Tokens;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// How many of `tries` requests are taken.
    fn taken(tries: usize, count: impl Fn() -> Result<(), Duration>) -> usize {
        (0..tries).filter(|_| count().is_ok()).count()
    }

    #[test]
    fn a_caller_has_its_share_and_takes_nothing_from_another_token_or_address() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::new(clock.clone());
        let record = TokenRecord {
            id: 1,
            name: String::new(),
            role: "viewer".into(),
            hash: Fingerprint::of("a").hex(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            revoked_unix_ms: None,
            used_day: None,
        };
        let own = Token::issue().expect("a token");
        let issued = Tokens::new(own, &[record]).get(1).expect("a token");
        let (local, issued) = (Holder::Local, Holder::Issued(issued));
        let of_local = || rates.count(&local, ip("10.0.0.1"));
        assert_eq!(taken(120_000, of_local), 100_000);
        let wait = of_local().expect_err("a refusal");
        assert!(
            !wait.is_zero() && wait <= Duration::from_millis(1),
            "{wait:?}"
        );
        for (holder, from) in [(&issued, "10.0.0.1"), (&local, "10.0.0.2")] {
            assert_eq!(rates.count(holder, ip(from)), Ok(()));
        }
        assert_eq!(rates.count_stranger(ip("10.0.0.1")), Ok(()));
        clock.advance(wait);
        assert_eq!(of_local(), Ok(()), "the time that was told is enough");
        clock.advance(Duration::from_secs(1));
        assert_eq!(taken(40_000, of_local), 20_000);
    }

    #[test]
    fn strangers_of_one_network_have_less_and_however_many_there_are_few_are_remembered() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::new(clock.clone());
        let of = |from: &str| rates.count_stranger(ip(from));
        assert_eq!(taken(2_000, || of("2001:db8::1")), 1_000);
        assert!(of("2001:db8::ffff").is_err() && of("2001:db8:0:1::1").is_ok());
        let address = |i: u32| IpAddr::from(i.to_be_bytes());
        for i in 0..3 * CALLERS as u32 {
            clock.advance(Duration::from_millis(1));
            rates.count_stranger(address(i)).expect("a first request");
        }
        let remembered = rates.strangers.limiter.len();
        assert!(remembered <= CALLERS, "{remembered}");
        assert!(of("2001:db8::1").is_ok());
    }
}
