//! Jobs that wait for a worker, in the order in which workers are offered them.
//!
//! Jobs of the same needs are one class. Who looks for a job judges a class when its first job comes
//! up in the order, and passes over all of it where it does not fit: many jobs that fit nobody cost
//! as much as one. Whether a job may start yet, and on whom, is not judged here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_map, btree_set};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::iter::Peekable;

use crate::ids::{JobId, Millis};
use crate::job::{Job, JobState};
use crate::worker::Needs;

/// Greater priorities first, and jobs of one priority by their number.
type Place = (Reverse<i32>, JobId);

/// Identifies a class for as long as it has jobs.
type ClassId = u64;

#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BTreeSet<Place>,
    jobs: HashMap<JobId, Waiting>,
    classes: HashMap<ClassId, Class>,
    /// Classes by a fingerprint of their needs.
    alike: HashMap<u64, Vec<ClassId>>,
    /// Every class at the place of its first job.
    heads: BTreeMap<Place, ClassId>,
    /// When each job may start.
    holds: BTreeSet<(Millis, JobId)>,
    next_class: ClassId,
}

/// Where a job stands in the indexes.
#[derive(Debug)]
struct Waiting {
    place: Place,
    class: ClassId,
    not_before: Millis,
}

/// Jobs of the same needs.
#[derive(Debug)]
struct Class {
    needs: Needs,
    jobs: BTreeSet<Place>,
}

impl Queue {
    /// Adds a job that waits.
    pub fn insert(&mut self, job: &Job) {
        let JobState::Queued { not_before } = job.state else {
            return;
        };
        self.remove(job.id);
        let place = (Reverse(job.spec.priority), job.id);
        let class = self.class_of(&job.spec.needs);
        self.order.insert(place);
        self.holds.insert((not_before, job.id));
        self.change(class, |jobs| {
            jobs.insert(place);
        });
        let waiting = Waiting {
            place,
            class,
            not_before,
        };
        self.jobs.insert(job.id, waiting);
    }

    pub fn remove(&mut self, id: JobId) {
        let Some(waiting) = self.jobs.remove(&id) else {
            return;
        };
        self.order.remove(&waiting.place);
        self.holds.remove(&(waiting.not_before, id));
        self.change(waiting.class, |jobs| {
            jobs.remove(&waiting.place);
        });
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// In their order the jobs of all classes whose needs pass `fits`, which is asked once for each
    /// class that comes up.
    pub fn fitting<F: FnMut(&Needs) -> bool>(&self, fits: F) -> Fitting<'_, F> {
        Fitting {
            classes: &self.classes,
            heads: self.heads.iter().peekable(),
            rests: Vec::new(),
            first: BinaryHeap::new(),
            fits,
        }
    }

    /// How many jobs are before `id`; none for one that does not wait.
    pub fn before(&self, id: JobId) -> usize {
        let waiting = self.jobs.get(&id);
        waiting.map_or(0, |waiting| self.order.range(..waiting.place).count())
    }

    /// The first time, from `from` on, at which a job may start.
    pub fn next_start(&self, from: Millis) -> Option<Millis> {
        let mut later = self.holds.range((from, JobId(0))..);
        later.next().map(|(at, _)| *at)
    }

    /// The class of jobs with these `needs`; a new one where there is none.
    fn class_of(&mut self, needs: &Needs) -> ClassId {
        let alike = self.alike.entry(fingerprint(needs)).or_default();
        let same = |id: &&ClassId| self.classes.get(id).is_some_and(|c| c.needs == *needs);
        if let Some(id) = alike.iter().find(same) {
            return *id;
        }
        let id = self.next_class;
        self.next_class += 1;
        alike.push(id);
        let class = Class {
            needs: needs.clone(),
            jobs: BTreeSet::new(),
        };
        self.classes.insert(id, class);
        id
    }

    /// Changes the jobs of a class, and keeps its place among the others.
    fn change(&mut self, id: ClassId, change: impl FnOnce(&mut BTreeSet<Place>)) {
        let Some(class) = self.classes.get_mut(&id) else {
            return;
        };
        if let Some(head) = class.jobs.first() {
            self.heads.remove(head);
        }
        change(&mut class.jobs);
        if let Some(head) = class.jobs.first() {
            self.heads.insert(*head, id);
            return;
        }
        let print = fingerprint(&class.needs);
        self.classes.remove(&id);
        if let Some(alike) = self.alike.get_mut(&print) {
            alike.retain(|one| *one != id);
            if alike.is_empty() {
                self.alike.remove(&print);
            }
        }
    }
}

/// Needs that are equal have the same one.
fn fingerprint(needs: &Needs) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Needs {
        device,
        memory,
        memory_fraction: _,
        advice: _,
        labels,
        flash_attention,
        workers,
        host_memory,
        model,
    } = needs;
    (device, memory, labels).hash(&mut hasher);
    (flash_attention, workers, host_memory, model).hash(&mut hasher);
    hasher.finish()
}

/// Jobs of some classes, in the order of the queue.
pub(super) struct Fitting<'a, F> {
    classes: &'a HashMap<ClassId, Class>,
    /// Classes that have not come up.
    heads: Peekable<btree_map::Iter<'a, Place, ClassId>>,
    /// What is left of those that have come up and fit.
    rests: Vec<btree_set::Iter<'a, Place>>,
    /// The first job of each of `rests`, which no longer has it.
    first: BinaryHeap<Reverse<(Place, usize)>>,
    fits: F,
}

impl<F: FnMut(&Needs) -> bool> Fitting<'_, F> {
    /// Judges the class that comes up next.
    fn judge(&mut self) {
        let classes = self.classes;
        let Some(class) = self.heads.next().and_then(|(_, id)| classes.get(id)) else {
            return;
        };
        if (self.fits)(&class.needs) {
            self.rests.push(class.jobs.iter());
            self.advance(self.rests.len() - 1);
        }
    }

    fn advance(&mut self, rest: usize) {
        if let Some(place) = self.rests[rest].next() {
            self.first.push(Reverse((*place, rest)));
        }
    }
}

impl<F: FnMut(&Needs) -> bool> Iterator for Fitting<'_, F> {
    type Item = JobId;

    fn next(&mut self) -> Option<JobId> {
        loop {
            let head = self.heads.peek().map(|(place, _)| **place);
            let first = self.first.peek().map(|Reverse((place, _))| *place);
            if let Some(head) = head
                && first.is_none_or(|first| head < first)
            {
                self.judge();
                continue;
            }
            let Reverse((place, rest)) = self.first.pop()?;
            self.advance(rest);
            return Some(place.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Now;
    use crate::job::{JobKind, JobSpec};

    fn job(id: u64, priority: i32, workers: usize) -> Job {
        let needs = Needs {
            workers,
            ..Needs::default()
        };
        let spec = JobSpec {
            kind: JobKind::Noop,
            name: String::new(),
            config_json: String::new(),
            config_hash: String::new(),
            files: Vec::new(),
            needs,
            max_retries: 0,
            time_limit: None,
            checkpoints_to_keep: 0,
            priority,
            retry_of: None,
            from_start: false,
            idempotency_key: None,
            traceparent: String::new(),
        };
        Job::new(JobId(id), spec, Now::both(10 * id))
    }

    /// Jobs 1 to 30: three priorities, and classes of one to four workers.
    fn jobs() -> Vec<Job> {
        let one = |id: u64| job(id, (id * 7 % 3) as i32, (id * 11 % 4) as usize + 1);
        (1..=30).map(one).collect()
    }

    fn queue(jobs: &[Job]) -> Queue {
        let mut queue = Queue::default();
        jobs.iter().for_each(|job| queue.insert(job));
        queue
    }

    #[test]
    fn jobs_of_the_classes_that_fit_come_in_the_order_of_all() {
        let (mut jobs, mut queue) = (jobs(), queue(&jobs()));
        for gone in [30, 1, 8, 15] {
            queue.remove(JobId(gone));
            jobs.retain(|job| job.id.0 != gone);
        }
        // Inserted twice, as after a change, a job is there once.
        queue.insert(&jobs[3]);
        jobs.sort_by_key(|job| (Reverse(job.spec.priority), job.id));
        for fitting in [vec![1, 2, 3, 4], vec![2, 4], vec![3], vec![]] {
            let fits = |needs: &Needs| fitting.contains(&needs.workers);
            let found: Vec<JobId> = queue.fitting(fits).collect();
            let of_fitting = jobs.iter().filter(|job| fits(&job.spec.needs));
            let wanted: Vec<JobId> = of_fitting.map(|job| job.id).collect();
            assert_eq!(found, wanted, "{fitting:?}");
        }
        for (place, job) in jobs.iter().enumerate() {
            assert_eq!(queue.before(job.id), place);
        }
    }

    #[test]
    fn a_class_is_judged_once_and_only_when_it_comes_up() {
        let queue = queue(&jobs());
        let mut judged = Vec::new();
        let none = queue.fitting(|needs| {
            judged.push(needs.workers);
            false
        });
        assert_eq!(none.count(), 0);
        judged.sort_unstable();
        assert_eq!(judged, [1, 2, 3, 4]);
        let mut judged = 0;
        let mut all = queue.fitting(|_| {
            judged += 1;
            true
        });
        assert!(all.next().is_some());
        drop(all);
        assert_eq!(judged, 1);
    }

    #[test]
    fn nothing_is_left_of_classes_without_jobs() {
        let mut queue = queue(&jobs());
        for id in 1..=30 {
            queue.remove(JobId(id));
        }
        assert!(queue.is_empty() && queue.classes.is_empty());
        assert!(queue.alike.is_empty() && queue.heads.is_empty() && queue.holds.is_empty());
    }

    #[test]
    fn the_next_start_is_the_first_one_that_is_not_over() {
        let mut queue = queue(&jobs());
        assert_eq!(queue.next_start(Millis(0)), Some(Millis(10)));
        assert_eq!(queue.next_start(Millis(10)), Some(Millis(10)));
        assert_eq!(queue.next_start(Millis(11)), Some(Millis(20)));
        queue.remove(JobId(2));
        assert_eq!(queue.next_start(Millis(11)), Some(Millis(30)));
        assert_eq!(queue.next_start(Millis(301)), None);
    }
}
