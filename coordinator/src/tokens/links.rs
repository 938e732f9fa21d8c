//! Links that open the page: each once, within minutes, for the token that asked for it.
//!
//! The table is in memory, and has fingerprints only.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qlora_access::Fingerprint;
use tokio::time::Instant;

use super::holder::Holder;
use super::issued::Denied;
use crate::random;

/// How long a link opens the page: long enough for who reads it in a terminal while a first job
/// starts.
pub const LIFE: Duration = Duration::from_secs(600);
/// Links of one token at a time that nobody has opened. The oldest makes room.
const MOST: usize = 20;

/// Every link that nobody has opened.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<Vec<Link>>);

#[derive(Debug)]
struct Link {
    key: Fingerprint,
    holder: Holder,
    ends: Instant,
}

impl Links {
    /// Makes a link of `holder`; gives its key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn make(&self, holder: Holder, now: Instant) -> Result<String, getrandom::Error> {
        let key = random::text()?;
        let mut open = self.open(now);
        let mut own = open
            .iter()
            .enumerate()
            .filter(|(_, one)| one.holder == holder);
        let oldest = own.next().map(|(place, _)| place);
        if let Some(oldest) = oldest.filter(|_| own.count() + 1 >= MOST) {
            open.remove(oldest);
        }
        open.push(Link {
            key: Fingerprint::of(&key),
            holder,
            ends: now + LIFE,
        });
        Ok(key)
    }

    /// Whose link it is. From now on it opens nothing.
    ///
    /// # Errors
    /// There is none, or it was opened before, or that was too long ago.
    pub fn take(&self, key: &str, now: Instant) -> Result<Holder, Denied> {
        let key = Fingerprint::of(key);
        let mut open = self.open(now);
        let found = open.iter().position(|link| link.key.is(&key));
        found
            .map(|place| open.remove(place).holder)
            .ok_or(Denied::Unknown)
    }

    fn open(&self, now: Instant) -> MutexGuard<'_, Vec<Link>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|link| link.ends > now);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_the_page_once_and_within_minutes() {
        let (links, now) = (Links::default(), Instant::now());
        let make = || links.make(Holder::Local, now).expect("a link");
        let (one, other) = (make(), make());
        assert!(!format!("{links:?}").contains(&one));
        assert_eq!(links.take("", now), Err(Denied::Unknown));
        assert_eq!(links.take(&one, now), Ok(Holder::Local));
        assert_eq!(links.take(&one, now), Err(Denied::Unknown));
        let last = now + LIFE - Duration::from_millis(1);
        assert_eq!(links.take(&other, last), Ok(Holder::Local));
        let late = make();
        assert_eq!(links.take(&late, now + LIFE), Err(Denied::Unknown));
    }

    #[test]
    fn the_oldest_link_of_a_token_makes_room() {
        let (links, now) = (Links::default(), Instant::now());
        let make = || links.make(Holder::Local, now).expect("a link");
        let all: Vec<String> = (0..=MOST).map(|_| make()).collect();
        assert_eq!(links.take(&all[0], now), Err(Denied::Unknown));
        assert!(all[1..].iter().all(|key| links.take(key, now).is_ok()));
    }
}
