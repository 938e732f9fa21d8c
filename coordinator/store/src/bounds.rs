//! How much is kept of what grows without end: lines of a log, points of a job, entries of the
//! journal.
//!
//! Both stores keep by these rules. They trim in the transaction that adds, and only once in many
//! additions; until then a little more is there.

use std::collections::BTreeSet;

use crate::records::MetricRecord;

/// Values whose extremes stay, by the names that workers report them under.
const TELLING: [&str; 2] = ["loss", "eval_loss"];

/// What stays at the least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// The newest lines of a job's log.
    pub log_lines: u64,
    /// The newest points of a job.
    pub points: u64,
    /// Older points are thinned to so many stretches of equal length at the most.
    pub stretches: u64,
    /// The newest entries of the journal.
    pub entries: u64,
    /// Of older ones, the newest that somebody asked for: no worker can wash them out.
    pub asked: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            log_lines: 100_000,
            points: 10_000,
            stretches: 2_500,
            entries: 1_000_000,
            asked: 100_000,
        }
    }
}

/// How old points of a job are thinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thinning {
    /// The newest of them.
    pub until: u64,
    /// Points of a stretch, counted with those that are gone.
    pub stretch: u64,
}

impl Bounds {
    /// The newest line of a log that goes, after the lines `first` to `last` were added.
    pub(crate) fn cut_log(self, first: u64, last: u64) -> Option<u64> {
        cut(self.log_lines, first, last)
    }

    /// The newest entry of the journal that goes unless somebody asked for it, after the entry
    /// `seq` was added.
    pub(crate) fn cut_journal(self, seq: u64) -> Option<u64> {
        cut(self.entries, seq, seq)
    }

    /// What to do with a job's points, after the points `first` to `last` were added.
    pub(crate) fn thinning(self, first: u64, last: u64) -> Option<Thinning> {
        let until = last.checked_sub(self.points).filter(|until| *until > 0)?;
        // A power of two: a longer stretch is made of whole shorter ones, so that what stays now is
        // what would have stayed had nothing been thinned before.
        let stretch = until.div_ceil(self.stretches.max(1)).next_power_of_two();
        (passes(self.points, first, last) && stretch > 1).then_some(Thinning { until, stretch })
    }
}

/// The greatest number that goes where the newest `keep` stay.
fn cut(keep: u64, first: u64, last: u64) -> Option<u64> {
    let until = last.checked_sub(keep).filter(|until| *until > 0)?;
    passes(keep / 100, first, last).then_some(until)
}

/// Whether a multiple of `every` is among the numbers `first` to `last`.
fn passes(every: u64, first: u64, last: u64) -> bool {
    let every = every.max(1);
    last / every > first.saturating_sub(1) / every
}

/// The numbers of those of `points` that go: of each stretch stay the first point, those with the
/// extremes of a loss, and the first one whose loss is not finite.
pub(crate) fn superfluous(points: &[MetricRecord], stretch: u64) -> Vec<u64> {
    let place = |point: &MetricRecord| point.seq.saturating_sub(1) / stretch.max(1);
    let runs = points.chunk_by(|a, b| place(a) == place(b));
    let mut gone = Vec::new();
    for run in runs {
        let stays = telling(run);
        let numbers = run.iter().map(|point| point.seq);
        gone.extend(numbers.filter(|seq| !stays.contains(seq)));
    }
    gone
}

fn telling(run: &[MetricRecord]) -> BTreeSet<u64> {
    let mut stays: BTreeSet<u64> = run.iter().take(1).map(|point| point.seq).collect();
    for name in TELLING {
        let told = run
            .iter()
            .filter_map(|p| Some((*p.values.get(name)?, p.seq)));
        let (finite, other): (Vec<_>, Vec<_>) = told.partition(|(value, _)| value.is_finite());
        let low = finite.iter().min_by(|a, b| a.0.total_cmp(&b.0));
        let high = finite.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let found = low.into_iter().chain(high).chain(other.first());
        stays.extend(found.map(|(_, seq)| *seq));
    }
    stays
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn point(seq: u64, loss: f64) -> MetricRecord {
        MetricRecord {
            seq,
            step: seq,
            unix_ms: 0,
            values: BTreeMap::from([("loss".to_owned(), loss)]),
        }
    }

    fn thinned(points: &[MetricRecord], stretch: u64) -> Vec<MetricRecord> {
        let gone = superfluous(points, stretch);
        let stays = points.iter().filter(|p| !gone.contains(&p.seq));
        stays.cloned().collect()
    }

    #[test]
    fn a_stretch_keeps_its_first_point_its_extremes_and_where_it_went_wrong() {
        let losses = [5.0, 4.0, 9.0, 1.0, 2.0, f64::NAN, f64::NAN, 3.0];
        let points: Vec<_> = (1..).zip(losses).map(|(seq, x)| point(seq, x)).collect();
        assert_eq!(superfluous(&points, 8), [2, 5, 7, 8]);
        assert_eq!(superfluous(&points, 1), [0; 0]);
        assert_eq!(superfluous(&[], 8), [0; 0]);
    }

    #[test]
    fn thinned_again_and_again_the_same_points_stay_as_at_once() {
        let loss = |seq: u64| (seq * 7919 % 1009) as f64;
        let points: Vec<_> = (1..=1000).map(|seq| point(seq, loss(seq))).collect();
        let steps = [2, 4, 8, 64];
        let slowly = steps
            .iter()
            .fold(points.clone(), |left, stretch| thinned(&left, *stretch));
        // NaN is not among them, so that they can be compared.
        assert_eq!(slowly, thinned(&points, 64));
        assert!(slowly.len() <= 3 * 1000_usize.div_ceil(64));
    }

    #[test]
    fn nothing_is_trimmed_before_its_time_and_never_what_is_to_stay() {
        let bounds = Bounds::default();
        assert_eq!(bounds.cut_log(1, 100_000), None);
        assert_eq!(bounds.cut_log(100_001, 100_999), None);
        assert_eq!(bounds.cut_log(100_990, 101_010), Some(1_010));
        assert_eq!(bounds.cut_journal(1_000_000), None);
        assert_eq!(bounds.cut_journal(1_010_000), Some(10_000));
        assert_eq!(
            bounds.thinning(9_990, 10_010),
            None,
            "a stretch is one point"
        );
        let thinning = |until, stretch| Some(Thinning { until, stretch });
        assert_eq!(bounds.thinning(20_000, 20_000), thinning(10_000, 4));
        assert_eq!(bounds.thinning(20_001, 29_999), None);
        assert_eq!(bounds.thinning(109_999, 110_000), thinning(100_000, 64));
    }
}
