//! What jobs need of the artifact store. Whose needs are counted is not decided here.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// How many jobs need each digest, and its bytes.
#[derive(Debug, Default)]
pub(super) struct Needed<K>(HashMap<K, (usize, u64)>);

impl<K: Borrow<str> + Eq + Hash> Needed<K> {
    /// Counts a job that needs `digests`, which may name one several times.
    ///
    /// Sizes are told by whoever submits: two that differ are no reason to count less.
    pub fn add(&mut self, digests: impl Iterator<Item = (K, u64)>) {
        let mut each_once: HashMap<K, u64> = HashMap::new();
        for (digest, size) in digests {
            let bytes = each_once.entry(digest).or_default();
            *bytes = size.max(*bytes);
        }
        for (digest, size) in each_once {
            let (jobs, bytes) = self.0.entry(digest).or_default();
            *jobs += 1;
            *bytes = size.max(*bytes);
        }
    }

    /// One job fewer needs each of `digests`; bytes that nobody needs any more.
    pub fn remove(&mut self, digests: &BTreeSet<&str>) -> u64 {
        let mut freed: u64 = 0;
        for digest in digests {
            let Some((jobs, bytes)) = self.0.get_mut(*digest) else {
                continue;
            };
            *jobs = jobs.saturating_sub(1);
            if *jobs == 0 {
                freed = freed.saturating_add(*bytes);
                self.0.remove(*digest);
            }
        }
        freed
    }

    pub fn contains(&self, digest: &str) -> bool {
        self.0.contains_key(digest)
    }

    pub fn digests(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(Borrow::borrow)
    }

    pub fn bytes(&self) -> u64 {
        let sizes = self.0.values().map(|(_, bytes)| *bytes);
        sizes.fold(0, u64::saturating_add)
    }

    /// The same, to count on from without a change of this one.
    pub fn borrowed(&self) -> Needed<&str> {
        let all = self.0.iter();
        Needed(all.map(|(digest, used)| (digest.borrow(), *used)).collect())
    }
}
