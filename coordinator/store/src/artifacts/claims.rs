//! Which artifacts somebody is about to refer to, and which are about to go: never both.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::digest::Digest256;

#[derive(Clone, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<Digest256, Fate>>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut all = self.claims.all();
        if let Some(Fate::Claimed(by)) = all.get_mut(&self.digest)
            && *by > 1
        {
            *by -= 1;
        } else {
            all.remove(&self.digest);
        }
    }
}
