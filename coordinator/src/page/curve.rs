//! Loss curves of jobs, kept between looks, so that a look reads only the points that are new since
//! the last one.
//!
//! A curve holds as many buckets as the chart can show, however many points it was made of: a job
//! of 100,000 points and one of 1,000 take the same memory, and nothing is read twice.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use qlora_proto::Metric;
use qlora_store::{MetricRecord, StoreError};
use tokio::sync::Mutex as Slot;

/// Buckets of a series at the most; at one more, neighbors are merged.
const BUCKETS: usize = 1000;
/// Curves that are kept: those that were looked at last.
const CURVES: usize = 64;
/// Points that are read at one time.
const PAGE: u32 = 10_000;

/// Values of neighboring steps. The extremes are kept, so that no spike is lost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bucket {
    /// The step of its first value.
    pub step: f64,
    pub low: f64,
    pub high: f64,
    sum: f64,
    count: usize,
}

impl Bucket {
    fn of(step: f64, value: f64) -> Self {
        Self {
            step,
            low: value,
            high: value,
            sum: value,
            count: 1,
        }
    }

    fn add(&mut self, other: &Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.sum += other.sum;
        self.count += other.count;
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }
}

/// The values of one name, in the order of their steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub buckets: Vec<Bucket>,
    /// Values that a full bucket holds.
    pub width: usize,
    /// Values that cannot be drawn.
    pub not_finite: usize,
}

impl Default for Series {
    fn default() -> Self {
        Self {
            buckets: Vec::new(),
            width: 1,
            not_finite: 0,
        }
    }
}

impl Series {
    pub fn push(&mut self, step: f64, value: f64) {
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        let new = Bucket::of(step, value);
        match self.buckets.last_mut() {
            Some(last) if last.count < self.width => last.add(&new),
            _ => self.buckets.push(new),
        }
        if self.buckets.len() > BUCKETS {
            self.merge();
        }
    }

    /// Values that can be drawn.
    pub fn points(&self) -> usize {
        self.buckets.iter().map(|bucket| bucket.count).sum()
    }

    fn merge(&mut self) {
        let both = |pair: &[Bucket]| {
            let mut bucket = pair[0];
            pair[1..].iter().for_each(|other| bucket.add(other));
            bucket
        };
        self.buckets = self.buckets.chunks(2).map(both).collect();
        self.width *= 2;
    }
}

/// Training loss and held-out loss.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Curve {
    pub train: Series,
    pub held_out: Series,
    /// The last point that it was made of.
    last: u64,
}

impl Curve {
    pub fn extend(&mut self, points: &[MetricRecord]) {
        for point in points {
            let value = |metric: Metric| point.values.get(metric.word()).copied();
            if let Some(loss) = value(Metric::Loss) {
                self.train.push(point.step as f64, loss);
            }
            if let Some(loss) = value(Metric::EvalLoss) {
                self.held_out.push(point.step as f64, loss);
            }
            self.last = point.seq;
        }
    }
}

/// Curves by job, with the count of looks at which each was looked at last.
#[derive(Default)]
struct Kept {
    curves: HashMap<u64, (Arc<Slot<Curve>>, u64)>,
    looks: u64,
}

impl Kept {
    fn slot(&mut self, job: u64) -> Arc<Slot<Curve>> {
        self.looks += 1;
        let looks = self.looks;
        let kept = self.curves.entry(job).or_default();
        kept.1 = looks;
        let slot = kept.0.clone();
        if self.curves.len() > CURVES {
            self.curves
                .retain(|_, (_, seen)| *seen + CURVES as u64 > looks);
        }
        slot
    }
}

/// The curves that are kept.
#[derive(Default)]
pub struct Curves(Mutex<Kept>);

impl Curves {
    /// The curve of `job` as it is now. `read` gives points after a number, as many as are asked
    /// for at the most.
    ///
    /// # Errors
    /// What `read` fails with; what was read before stays.
    pub async fn of<F, R>(&self, job: u64, read: R) -> Result<Curve, StoreError>
    where
        R: Fn(u64, u32) -> F,
        F: Future<Output = Result<Vec<MetricRecord>, StoreError>>,
    {
        let slot = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .slot(job);
        // Others who look at the same job wait for these points instead of reading them too.
        let mut curve = slot.lock().await;
        loop {
            let points = read(curve.last, PAGE).await?;
            curve.extend(&points);
            if points.len() < PAGE as usize {
                return Ok(curve.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn point(seq: u64, loss: f64) -> MetricRecord {
        MetricRecord {
            seq,
            step: seq,
            unix_ms: 0,
            values: [("loss".to_owned(), loss)].into(),
        }
    }

    #[test]
    fn one_spike_in_many_points_is_kept_in_few_buckets() {
        for many in [1, 2, 999, 1000, 1001, 1999, 2001, 100_000] {
            let mut series = Series::default();
            (0..many).for_each(|i| series.push(i as f64, if i == many / 3 { 9.0 } else { 1.0 }));
            assert_eq!(series.points(), many);
            assert!(
                series.buckets.len() <= BUCKETS && series.buckets.len() >= many.min(BUCKETS / 2),
                "{many}"
            );
            assert_eq!(
                series.buckets.iter().map(|b| b.high).fold(0.0, f64::max),
                9.0
            );
            assert!(
                series.buckets.iter().all(|b| b.count <= series.width),
                "{many}"
            );
            assert!(
                series.buckets.is_sorted_by(|a, b| a.step < b.step),
                "{many}"
            );
        }
    }

    #[tokio::test]
    async fn a_look_reads_only_what_is_new_and_other_jobs_do_not_push_it_out() {
        let stored: RefCell<Vec<MetricRecord>> =
            RefCell::new((1..=100_000).map(|i| point(i, i as f64)).collect());
        let read = RefCell::new(0);
        let fetch = |after: u64, limit: u32| {
            let found: Vec<_> = stored
                .borrow()
                .iter()
                .filter(|p| p.seq > after)
                .take(limit as usize)
                .cloned()
                .collect();
            *read.borrow_mut() += found.len();
            async { Ok(found) }
        };
        let curves = Curves::default();
        let first = curves.of(7, fetch).await.expect("a curve");
        assert_eq!((first.train.points(), *read.borrow()), (100_000, 100_000));
        for other in 100..100 + CURVES as u64 - 2 {
            curves
                .of(other, |_, _| async { Ok(Vec::new()) })
                .await
                .expect("a curve");
        }
        assert_eq!(curves.of(7, fetch).await.expect("a curve"), first);
        assert_eq!(*read.borrow(), 100_000);
        stored.borrow_mut().push(point(100_001, 0.5));
        let next = curves.of(7, fetch).await.expect("a curve");
        assert_eq!((next.train.points(), *read.borrow()), (100_001, 100_001));
        // A curve that nobody looks at is dropped, and made again where somebody does.
        for other in 200..200 + 2 * CURVES as u64 {
            curves
                .of(other, |_, _| async { Ok(Vec::new()) })
                .await
                .expect("a curve");
        }
        assert!(curves.0.lock().expect("curves").curves.len() <= CURVES);
        assert_eq!(curves.of(7, fetch).await.expect("a curve"), next);
        assert_eq!(*read.borrow(), 200_002);
    }
}
