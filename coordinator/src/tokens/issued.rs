//! A token that was given out, as long as the coordinator runs.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::time::Duration;

use qlora_access::Fingerprint;
use qlora_proto::{DAY_MS, Role};
use qlora_store::TokenRecord;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::clock::now;

/// Stands for no time and no day.
const NONE: u64 = u64::MAX;
/// How long a token that is over stays in the list.
const REMEMBERED_MS: u64 = 90 * DAY_MS;
/// The wall clock may be set while an expiry is waited for, so it is looked at again.
const LOOK: Duration = Duration::from_secs(30);

/// Why a token opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("the token is not that of this coordinator")]
    Unknown,
    #[error("the token has expired")]
    Expired,
    #[error("the token was revoked")]
    Revoked,
}

/// One token. What may change is shared by everything that it has let in.
#[derive(Debug)]
pub struct Issued {
    pub id: u64,
    pub name: String,
    pub role: Role,
    pub(super) token: Fingerprint,
    created: u64,
    expires: Option<u64>,
    revoked: AtomicU64,
    /// Wakes whoever waits for its end.
    ended: watch::Sender<()>,
    used_day: AtomicU64,
    /// The day that is in the store.
    stored_day: AtomicU64,
}

impl Issued {
    /// None where the record has a role or a hash of another version.
    pub fn new(record: &TokenRecord) -> Option<Self> {
        let day = record.used_day.unwrap_or(NONE);
        Some(Self {
            id: record.id,
            name: record.name.clone(),
            role: Role::parse(&record.role)?,
            token: Fingerprint::parse(&record.hash)?,
            created: record.created_unix_ms,
            expires: record.expires_unix_ms,
            revoked: AtomicU64::new(record.revoked_unix_ms.unwrap_or(NONE)),
            ended: watch::Sender::new(()),
            used_day: AtomicU64::new(day),
            stored_day: AtomicU64::new(day),
        })
    }

    /// As people and the store see it.
    pub fn record(&self) -> TokenRecord {
        let some = |value: &AtomicU64| Some(value.load(Acquire)).filter(|v| *v != NONE);
        TokenRecord {
            id: self.id,
            name: self.name.clone(),
            role: self.role.into(),
            hash: self.token.hex(),
            created_unix_ms: self.created,
            expires_unix_ms: self.expires,
            revoked_unix_ms: some(&self.revoked),
            used_day: some(&self.used_day),
        }
    }

    /// Its name, or its number where it has none. No name has a space.
    pub fn who(&self) -> String {
        if self.name.is_empty() {
            format!("token {}", self.id)
        } else {
            self.name.clone()
        }
    }

    /// Whether it is in force at `wall`.
    ///
    /// # Errors
    /// It was revoked or has expired.
    pub fn check(&self, wall: u64) -> Result<(), Denied> {
        if self.revoked.load(Acquire) != NONE {
            return Err(Denied::Revoked);
        }
        if self.expires.is_some_and(|at| at <= wall) {
            return Err(Denied::Expired);
        }
        Ok(())
    }

    /// It was used at `wall`.
    pub fn uses(&self, wall: u64) {
        let day = wall / DAY_MS;
        if self.used_day.load(Acquire) != day {
            self.used_day.store(day, Release);
        }
    }

    /// From now on it lets nobody in, and what it has let in ends. That is stored already.
    pub fn revoke(&self, wall: u64) {
        // The first time counts.
        let _ = self.revoked.compare_exchange(NONE, wall, AcqRel, Acquire);
        self.ended.send_replace(());
    }

    /// Waits until it is over.
    pub async fn over(&self) -> Denied {
        // Before the check: a revocation between the two wakes it.
        let mut told = self.ended.subscribe();
        loop {
            let wall = now().wall.0;
            if let Err(denied) = self.check(wall) {
                return denied;
            }
            match self.expires {
                // It is no fault: the sender lives in `self`.
                None => {
                    let _ = told.changed().await;
                }
                Some(at) => {
                    let left = Duration::from_millis(at.saturating_sub(wall));
                    // Told or not: the loop looks again.
                    let _ = timeout(left.min(LOOK), told.changed()).await;
                }
            }
        }
    }

    /// How many wait for its end.
    #[cfg(test)]
    pub fn awaited(&self) -> usize {
        self.ended.receiver_count()
    }

    /// Whether it was over so long ago that the list need not have it any more.
    pub(super) fn is_forgotten(&self, wall: u64) -> bool {
        let revoked = Some(self.revoked.load(Acquire)).filter(|at| *at != NONE);
        let over = revoked.into_iter().chain(self.expires).min();
        over.is_some_and(|at| at.saturating_add(REMEMBERED_MS) <= wall)
    }

    /// The last day of use, where the store does not have it.
    pub(super) fn unsaved_day(&self) -> Option<u64> {
        let day = self.used_day.load(Acquire);
        (day != self.stored_day.load(Acquire)).then_some(day)
    }

    pub(super) fn saved_day(&self, day: u64) {
        self.stored_day.store(day, Release);
    }
}
