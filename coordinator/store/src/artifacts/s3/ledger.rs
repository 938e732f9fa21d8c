//! What this process knows of the objects in a bucket: their bytes, and whether they were found to
//! be what their names say.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::artifacts::digest::Digest256;

/// One state of an object: another one has another entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub bytes: u64,
    /// Without quotes.
    pub tag: String,
}

struct Entry {
    object: Object,
    /// Whether its bytes hash to its name; none where nobody has read them.
    right: Option<bool>,
    since: Instant,
}

/// Objects by their names.
#[derive(Default)]
pub(super) struct Ledger(Mutex<HashMap<Digest256, Entry>>);

impl Ledger {
    /// The bucket has `object` now; whether its bytes were found to be right or wrong.
    pub fn saw(&self, name: &Digest256, object: &Object) -> Option<bool> {
        let mut all = self.all();
        match all.get(name) {
            Some(entry) if entry.object == *object => entry.right,
            _ => {
                all.insert(name.clone(), Entry::new(object, None));
                None
            }
        }
    }

    /// The bytes of `object` were hashed, and are `right` or not.
    pub fn judge(&self, name: &Digest256, object: &Object, right: bool) {
        self.all()
            .insert(name.clone(), Entry::new(object, Some(right)));
    }

    pub fn forget(&self, name: &Digest256) {
        self.all().remove(name);
    }

    /// A listing that began at `begun` had `listed` and nothing else.
    pub fn listed(&self, begun: Instant, listed: &HashMap<Digest256, Object>) {
        for (name, object) in listed {
            self.saw(name, object);
        }
        self.all()
            .retain(|name, entry| listed.contains_key(name) || entry.since >= begun);
    }

    /// Of all objects.
    pub fn bytes(&self) -> u64 {
        self.all().values().map(|entry| entry.object.bytes).sum()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Digest256, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(object: &Object, right: Option<bool>) -> Self {
        Self {
            object: object.clone(),
            right,
            since: Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: char) -> Digest256 {
        digit.to_string().repeat(64).parse().expect("a digest")
    }

    fn object(bytes: u64, tag: &str) -> Object {
        let tag = tag.into();
        Object { bytes, tag }
    }

    #[test]
    fn a_verdict_holds_for_the_object_that_was_read_and_no_other() {
        let ledger = Ledger::default();
        let (first, second) = (object(3, "a"), object(3, "b"));
        assert_eq!(ledger.saw(&name('0'), &first), None);
        ledger.judge(&name('0'), &first, false);
        assert_eq!(ledger.saw(&name('0'), &first), Some(false));
        assert_eq!(ledger.saw(&name('0'), &second), None);
        ledger.judge(&name('0'), &second, true);
        assert_eq!(ledger.saw(&name('0'), &second), Some(true));
        ledger.forget(&name('0'));
        assert_eq!(ledger.saw(&name('0'), &second), None);
    }

    #[test]
    fn a_listing_takes_away_what_it_lacks_but_not_what_came_meanwhile() {
        let ledger = Ledger::default();
        ledger.judge(&name('0'), &object(1, "a"), true);
        ledger.judge(&name('1'), &object(2, "b"), true);
        let begun = Instant::now();
        ledger.judge(&name('2'), &object(4, "c"), true);
        let listed = HashMap::from([(name('1'), object(2, "b")), (name('3'), object(8, "d"))]);
        ledger.listed(begun, &listed);
        assert_eq!(ledger.bytes(), 2 + 4 + 8);
        assert_eq!(ledger.saw(&name('1'), &object(2, "b")), Some(true));
    }
}
