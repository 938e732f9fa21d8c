//! The owner of each part of a rendered text: a message, or the tools. `places.rs` finds it.

use std::ops::Range;

/// Whose a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Message(usize),
    Tools,
}

/// Where a text of a message or of the tools stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub range: Range<usize>,
    pub owner: Owner,
}

/// The places of all texts of a conversation, in order.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub list: Vec<Place>,
    /// Owners whose every character is known; of the others, a part of the text that holds them
    /// all.
    pub exact: Vec<Owner>,
}

impl Places {
    pub fn is_exact(&self, owner: Owner) -> bool {
        self.exact.contains(&owner)
    }

    pub fn of(&self, owner: Owner) -> impl Iterator<Item = &Range<usize>> {
        self.list
            .iter()
            .filter(move |place| place.owner == owner)
            .map(|place| &place.range)
    }

    /// Those of `ranges` that stand in no place of `owners`.
    pub fn without_known(&self, ranges: Vec<Range<usize>>, owners: &[Owner]) -> Vec<Range<usize>> {
        let is_known = |range: &Range<usize>| {
            let mut places = self
                .list
                .iter()
                .filter(|place| owners.contains(&place.owner));
            places.any(|place| place.range.start <= range.start && range.end <= place.range.end)
        };
        ranges
            .into_iter()
            .filter(|range| !is_known(range))
            .collect()
    }
}

/// Whether the ranges share a character.
pub(super) fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}
