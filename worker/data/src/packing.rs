//! Packs samples so that each pass leaves as few tokens unused as possible: best fit, the longest
//! first.
//!
//! This is bin packing's best-fit decreasing, which needs at most 11/9 of the fewest bins (Johnson,
//! 1973). Real data have many short samples, so almost no room is left over.

use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Groups of indices into `lengths`, none of more than `budget` tokens; every index is in one
/// group.
///
/// A sample longer than the budget gets a group of its own. The result depends on nothing but the
/// arguments.
pub fn best_fit(lengths: &[usize], budget: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| (Reverse(lengths[i]), i));
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // Groups by the room that is left in them.
    let mut room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for index in order {
        let length = lengths[index];
        let (left, group) = match room.range((length, 0)..).next().copied() {
            Some(fit) => {
                room.remove(&fit);
                fit
            }
            None => {
                groups.push(Vec::new());
                (budget.max(length), groups.len() - 1)
            }
        };
        groups[group].push(index);
        room.insert((left - length, group));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_is_packed_once_and_no_pack_is_too_large() {
        let lengths: Vec<usize> = (0..500).map(|i| 1 + i * 7919 % 300).collect();
        let groups = best_fit(&lengths, 512);
        let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..500).collect::<Vec<_>>());
        assert!(
            groups
                .iter()
                .all(|group| group.iter().map(|&i| lengths[i]).sum::<usize>() <= 512)
        );
        let fewest = lengths.iter().sum::<usize>().div_ceil(512);
        assert!(
            groups.len() <= fewest + 1,
            "{} packs where {fewest} would hold all tokens",
            groups.len()
        );
    }

    #[test]
    fn the_fullest_pack_that_still_has_room_is_taken() {
        assert_eq!(best_fit(&[6, 5, 4, 3, 2], 10), [vec![0, 2], vec![1, 3, 4]]);
        assert_eq!(
            best_fit(&[20, 3], 10),
            [vec![0], vec![1]],
            "a sample above the budget stands alone"
        );
    }
}
