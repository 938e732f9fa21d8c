//! Which artifacts somebody is about to refer to, and which are about to go: never both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::digest::Digest256;

#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Shared>);

#[derive(Default)]
struct Shared {
    all: Mutex<HashMap<Digest256, Fate>>,
    /// Wakes whoever waits until something has gone.
    gone: Notify,
}

enum Fate {
    /// By so many.
    Claimed(usize),
    Going,
}

/// Keeps an artifact until this is dropped: from being removed, where somebody is about to refer to
/// it, who does so before; or from being claimed, where it is being removed.
pub struct Claim {
    claims: Claims,
    digest: Digest256,
}

impl Claims {
    /// None while it goes.
    pub fn claim(&self, digest: &Digest256) -> Option<Claim> {
        let mut all = self.all();
        match all.entry(digest.clone()).or_insert(Fate::Claimed(0)) {
            Fate::Claimed(by) => *by += 1,
            Fate::Going => return None,
        }
        Some(self.held(digest))
    }

    /// As [`Self::claim`]; where it goes, once it has gone, or stays after all.
    pub async fn claim_after(&self, digest: &Digest256) -> Claim {
        loop {
            // Before the look: what goes between the two wakes it.
            let gone = self.0.gone.notified();
            if let Some(claim) = self.claim(digest) {
                return claim;
            }
            gone.await;
        }
    }

    /// None while it is claimed, or goes already.
    pub fn go(&self, digest: &Digest256) -> Option<Claim> {
        let mut all = self.all();
        if all.contains_key(digest) {
            return None;
        }
        all.insert(digest.clone(), Fate::Going);
        Some(self.held(digest))
    }

    fn held(&self, digest: &Digest256) -> Claim {
        Claim {
            claims: self.clone(),
            digest: digest.clone(),
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest256, Fate>> {
        self.0.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.claims.all();
        if let Some(Fate::Claimed(by)) = all.get_mut(&self.digest)
            && *by > 1
        {
            *by -= 1;
        } else if let Some(Fate::Going) = all.remove(&self.digest) {
            self.claims.0.gone.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn what_goes_is_claimed_once_it_has_gone_and_what_is_claimed_does_not_go() {
        let claims = Claims::default();
        let name = |digit: &str| -> Digest256 { digit.repeat(64).parse().expect("a digest") };
        let going = claims.go(&name("a")).expect("it goes");
        assert!(claims.claim(&name("a")).is_none() && claims.claim(&name("b")).is_some());
        let gone = name("a");
        let mut waiting = pin!(claims.claim_after(&gone));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        drop(going);
        let Poll::Ready(claim) = waiting.as_mut().poll(&mut context) else {
            panic!("it waits on");
        };
        let other = claims.claim(&name("a")).expect("a second claim");
        drop(claim);
        assert!(claims.go(&name("a")).is_none());
        drop(other);
        assert!(claims.go(&name("a")).is_some());
    }
}
