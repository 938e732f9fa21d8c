//! Things that are due at some time, in the order of their times.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::Millis;

/// One time for each key. The earliest is found without a look at the others.
#[derive(Debug)]
pub(super) struct ByTime<K> {
    times: BTreeMap<K, Millis>,
    order: BTreeSet<(Millis, K)>,
}

impl<K> Default for ByTime<K> {
    fn default() -> Self {
        Self {
            times: BTreeMap::new(),
            order: BTreeSet::new(),
        }
    }
}

impl<K: Clone + Ord> ByTime<K> {
    /// `key` is due at `at`, or at no time.
    pub fn set(&mut self, key: &K, at: Option<Millis>) {
        let before = match at {
            Some(at) => self.times.insert(key.clone(), at),
            None => self.times.remove(key),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.order.insert((at, key.clone()));
        }
    }

    pub fn get(&self, key: &K) -> Option<Millis> {
        self.times.get(key).copied()
    }

    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The earliest time.
    pub fn first(&self) -> Option<Millis> {
        self.order.first().map(|(at, _)| *at)
    }

    /// The earliest time that is `from` or later.
    pub fn first_from(&self, from: Millis) -> Option<Millis> {
        let least = self.times.first_key_value()?.0.clone();
        let mut later = self.order.range((from, least)..);
        later.next().map(|(at, _)| *at)
    }

    /// What is due at `until` or earlier, the earliest first.
    pub fn due(&self, until: Millis) -> impl Iterator<Item = &K> {
        let due = self.order.iter().take_while(move |(at, _)| *at <= until);
        due.map(|(_, key)| key)
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_time_and_the_earliest_comes_first() {
        let mut due = ByTime::default();
        for (key, at) in [(1, 30), (2, 10), (3, 20), (1, 5), (2, 40)] {
            due.set(&key, Some(Millis(at)));
        }
        assert_eq!(due.first(), Some(Millis(5)));
        assert_eq!(due.get(&2), Some(Millis(40)));
        assert_eq!(Vec::from_iter(due.due(Millis(20))), [&1, &3]);
        due.set(&1, None);
        assert_eq!(due.first(), Some(Millis(20)));
        assert_eq!(due.order.len(), due.times.len());
        due.clear();
        assert!(due.is_empty() && due.first().is_none());
    }

    #[test]
    fn the_first_from_a_time_on_is_that_time_or_later() {
        let mut due = ByTime::default();
        for (key, at) in [(9, 10), (1, 10), (5, 11), (2, 20)] {
            due.set(&key, Some(Millis(at)));
        }
        for (from, first) in [(0, 10), (10, 10), (11, 11), (12, 20), (20, 20)] {
            let found = due.first_from(Millis(from));
            assert_eq!(found, Some(Millis(first)), "from {from}");
        }
        assert_eq!(due.first_from(Millis(21)), None);
    }
}
