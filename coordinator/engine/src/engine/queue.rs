//! Jobs that wait for a worker, in the order in which workers are offered them: greater priorities
//! first, and jobs of one priority by their owners' shares.
//!
//! Jobs of the same needs are one class. Who looks for a job judges a class when its first job comes
//! up in the order, and passes over all of it where it does not fit: many jobs that fit nobody cost
//! as much as one. Whether a job may start yet, and on whom, is not judged here. A job that waits for
//! other jobs is no part of it.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::classes::{ClassId, Classes};
use super::line::{Line, Turn, Walk};
use super::share::Shares;
use crate::ids::{JobId, Millis};
use crate::job::{Job, JobState};
use crate::worker::Needs;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By priority and owner.
    order: BTreeMap<Reverse<i32>, BTreeMap<String, Line>>,
    jobs: HashMap<JobId, Waiting>,
    classes: Classes,
    /// Jobs of several workers for which some were kept free. They come first within their
    /// priority: who starts or ends something meanwhile does not take their workers from them.
    kept_for: BTreeSet<JobId>,
    /// When each job may start.
    holds: BTreeSet<(Millis, JobId)>,
}

/// Where a job stands in the indexes.
#[derive(Debug)]
struct Waiting {
    priority: i32,
    owner: String,
    class: ClassId,
    not_before: Millis,
}

impl Queue {
    /// Adds a job that is queued, unless it waits for others.
    pub fn insert(&mut self, job: &Job) {
        let JobState::Queued { not_before } = job.state else {
            return;
        };
        self.remove(job.id);
        if !job.waits_for.is_empty() {
            return;
        }
        let (priority, owner) = (job.spec.priority, job.spec.owner.clone());
        let class = self.classes.enter(&job.spec.needs);
        let owners = self.order.entry(Reverse(priority)).or_default();
        let line = owners.entry(owner.clone()).or_default();
        line.insert(job.id, class);
        self.holds.insert((not_before, job.id));
        let waiting = Waiting {
            priority,
            owner,
            class,
            not_before,
        };
        self.jobs.insert(job.id, waiting);
    }

    pub fn remove(&mut self, id: JobId) {
        self.kept_for.remove(&id);
        let Some(waiting) = self.jobs.remove(&id) else {
            return;
        };
        self.holds.remove(&(waiting.not_before, id));
        self.classes.leave(waiting.class);
        let priority = Reverse(waiting.priority);
        let Some(owners) = self.order.get_mut(&priority) else {
            return;
        };
        if let Some(line) = owners.get_mut(&waiting.owner) {
            line.remove(id, waiting.class);
            if line.jobs().is_empty() {
                owners.remove(&waiting.owner);
            }
        }
        if owners.is_empty() {
            self.order.remove(&priority);
        }
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// A worker is kept free for `id`, which waits for several.
    pub fn keep_for(&mut self, id: JobId) {
        if self.jobs.contains_key(&id) {
            self.kept_for.insert(id);
        }
    }

    /// In their order the jobs of all classes whose needs pass `fits`, which is asked once for each
    /// class that comes up, and whose `turn` it is.
    pub fn fitting<'a>(
        &'a self,
        shares: &'a Shares,
        fits: impl FnMut(&Needs) -> bool + 'a,
        turn: impl FnMut(JobId) -> Turn + 'a,
    ) -> impl Iterator<Item = JobId> + 'a {
        let standing = shares.standings();
        let level = move |(priority, owners): (&Reverse<i32>, &'a BTreeMap<String, Line>)| {
            let mut others = Walk::default();
            for (owner, line) in owners {
                others.add(standing(owner), line);
            }
            Level::new(self.kept_first(priority.0), others)
        };
        self.walk(self.order.iter().map(level), fits, turn)
    }

    /// The jobs of `owner` whose needs pass `fits` and whose `turn` it is, by priority and number.
    pub fn of<'a>(
        &'a self,
        owner: &'a str,
        fits: impl FnMut(&Needs) -> bool + 'a,
        turn: impl FnMut(JobId) -> Turn + 'a,
    ) -> impl Iterator<Item = JobId> + 'a {
        let lines = self.order.values().filter_map(|owners| owners.get(owner));
        let level = |line: &'a Line| {
            let mut all = Walk::default();
            all.add(Default::default(), line);
            Level::new(Vec::new(), all)
        };
        self.walk(lines.map(level), fits, turn)
    }

    fn walk<'a>(
        &'a self,
        mut levels: impl Iterator<Item = Level<'a>> + 'a,
        mut fits: impl FnMut(&Needs) -> bool + 'a,
        mut turn: impl FnMut(JobId) -> Turn + 'a,
    ) -> impl Iterator<Item = JobId> + 'a {
        let mut judged = HashMap::new();
        let mut judge = move |class: ClassId| {
            let judge = || self.classes.needs(class).is_some_and(&mut fits);
            *judged.entry(class).or_insert_with(judge)
        };
        let mut level: Option<Level<'a>> = None;
        std::iter::from_fn(move || {
            loop {
                let next = level
                    .as_mut()
                    .and_then(|level| level.next_fitting(&mut judge, &mut turn));
                if next.is_some() {
                    return next;
                }
                level = Some(levels.next()?);
            }
        })
    }

    /// How many jobs are before `id`; none for one that does not wait. Whole lines are counted at
    /// once.
    pub fn before(&self, id: JobId, shares: &Shares) -> usize {
        let Some(Waiting {
            priority, owner, ..
        }) = self.jobs.get(&id)
        else {
            return 0;
        };
        let greater = self.order.range(..Reverse(*priority));
        let greater = greater.flat_map(|(_, owners)| owners.values());
        let greater: usize = greater.map(|line| line.jobs().len()).sum();
        let kept = self.kept_first(*priority);
        if let Some(place) = kept.iter().position(|(other, _)| *other == id) {
            return greater + place;
        }
        let standing = shares.standings();
        let own = standing(owner);
        let before = |(other, line): (&String, &Line)| {
            let jobs = line.jobs();
            let kept = kept.iter().map(|(id, _)| *id);
            let kept = Vec::from_iter(kept.filter(|id| jobs.contains(id)));
            match standing(other).cmp(&own) {
                Ordering::Less => jobs.len() - kept.len(),
                Ordering::Equal => line.before(id) - kept.iter().filter(|kept| **kept < id).count(),
                Ordering::Greater => 0,
            }
        };
        let owners = self.order.get(&Reverse(*priority));
        let others = owners.into_iter().flatten().map(before);
        greater + kept.len() + others.sum::<usize>()
    }

    /// The first time, from `from` on, at which a job may start.
    pub fn next_start(&self, from: Millis) -> Option<Millis> {
        let mut later = self.holds.range((from, JobId(0))..);
        later.next().map(|(at, _)| *at)
    }

    /// The jobs of `priority` that come first because workers are kept free for them, and their
    /// classes.
    fn kept_first(&self, priority: i32) -> Vec<(JobId, ClassId)> {
        let of = |id: &JobId| {
            let waiting = self.jobs.get(id).filter(|w| w.priority == priority)?;
            Some((*id, waiting.class))
        };
        self.kept_for.iter().filter_map(of).collect()
    }
}

/// The jobs of one priority.
struct Level<'a> {
    kept: Vec<(JobId, ClassId)>,
    /// How many of `kept` have come up.
    passed: usize,
    others: Walk<'a>,
}

impl<'a> Level<'a> {
    fn new(kept: Vec<(JobId, ClassId)>, others: Walk<'a>) -> Self {
        let passed = 0;
        Self {
            kept,
            passed,
            others,
        }
    }

    fn next_fitting(
        &mut self,
        mut fits: impl FnMut(ClassId) -> bool,
        mut turn: impl FnMut(JobId) -> Turn,
    ) -> Option<JobId> {
        while let Some((id, class)) = self.kept.get(self.passed) {
            self.passed += 1;
            if fits(*class) && turn(*id) == Turn::Take {
                return Some(*id);
            }
        }
        loop {
            let id = self.others.next_fitting(&mut fits, &mut turn)?;
            if self.kept.iter().all(|(kept, _)| *kept != id) {
                return Some(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ended::Used;
    use crate::ids::{Now, Token};
    use crate::job::JobSpec;

    fn take(_: JobId) -> Turn {
        Turn::Take
    }

    fn job(id: u64, priority: i32, workers: usize) -> Job {
        let needs = Needs {
            workers,
            ..Needs::default()
        };
        let spec = JobSpec {
            needs,
            priority,
            ..JobSpec::noop("")
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
        let (mut jobs, mut queue, shares) = (jobs(), queue(&jobs()), Shares::default());
        for gone in [30, 1, 8, 15] {
            queue.remove(JobId(gone));
            jobs.retain(|job| job.id.0 != gone);
        }
        // Inserted twice, as after a change, a job is there once.
        queue.insert(&jobs[3]);
        jobs.sort_by_key(|job| (Reverse(job.spec.priority), job.id));
        for fitting in [vec![1, 2, 3, 4], vec![2, 4], vec![3], vec![]] {
            let fits = |needs: &Needs| fitting.contains(&needs.workers);
            let found: Vec<JobId> = queue.fitting(&shares, fits, take).collect();
            let of_fitting = jobs.iter().filter(|job| fits(&job.spec.needs));
            let wanted: Vec<JobId> = of_fitting.map(|job| job.id).collect();
            assert_eq!(found, wanted, "{fitting:?}");
        }
        for (place, job) in jobs.iter().enumerate() {
            assert_eq!(queue.before(job.id, &shares), place);
        }
    }

    /// Jobs 1 to 30 of three owners, one of whom runs something and one of whom has used something.
    fn owned() -> (Vec<Job>, Shares) {
        let mut shares = Shares::default();
        let mut jobs = jobs();
        for job in &mut jobs {
            job.spec.owner = ["busy", "used", "new"][(job.id.0 * 13 % 3) as usize].into();
            shares.add(job);
        }
        let mut runs = job(31, 0, 1);
        runs.spec.owner = "busy".into();
        runs.state = JobState::Running {
            token: Token::new(31, 0),
            worker: "a".into(),
            stopping: None,
        };
        shares.add(&runs);
        shares.add_used(Used {
            owner: "used".into(),
            by_day: vec![(1, 1)],
        });
        (jobs, shares)
    }

    /// A job that is kept for comes first within its priority, whoever's it is.
    #[test]
    fn jobs_of_the_classes_that_fit_come_in_the_order_of_their_owners_shares() {
        let (mut jobs, shares) = owned();
        let mut queue = queue(&jobs);
        let kept = jobs.iter().rfind(|job| job.spec.owner == "busy");
        let kept = kept.expect("one of the last").id;
        queue.keep_for(kept);
        let standing = |owner: &str| ["new", "used", "busy"].iter().position(|o| *o == owner);
        jobs.sort_by_key(|job| {
            let owner = standing(&job.spec.owner);
            (Reverse(job.spec.priority), job.id != kept, owner, job.id)
        });
        for fitting in [vec![1, 2, 3, 4], vec![2, 4], vec![3], vec![]] {
            let fits = |needs: &Needs| fitting.contains(&needs.workers);
            let found: Vec<JobId> = queue.fitting(&shares, fits, take).collect();
            let of_fitting = jobs.iter().filter(|job| fits(&job.spec.needs));
            let wanted: Vec<JobId> = of_fitting.map(|job| job.id).collect();
            assert_eq!(found, wanted, "{fitting:?}");
        }
        for (place, job) in jobs.iter().enumerate() {
            assert_eq!(queue.before(job.id, &shares), place);
        }
        // Those of one owner do not depend on who comes first.
        jobs.sort_by_key(|job| (Reverse(job.spec.priority), job.id));
        let fits = |needs: &Needs| needs.workers > 1;
        let found: Vec<JobId> = queue.of("busy", fits, take).collect();
        let own = jobs.iter().filter(|job| job.spec.owner == "busy");
        let wanted = own.filter(|job| fits(&job.spec.needs)).map(|job| job.id);
        assert_eq!(found, Vec::from_iter(wanted));
    }

    /// A class that jobs of several owners and priorities have is one.
    #[test]
    fn a_class_of_several_owners_is_judged_once() {
        let (jobs, shares) = owned();
        let queue = queue(&jobs);
        let mut judged = 0;
        let fits = |_: &Needs| {
            judged += 1;
            false
        };
        let none = queue.fitting(&shares, fits, take);
        assert_eq!(none.count(), 0);
        assert_eq!(judged, 4);
    }

    #[test]
    fn a_class_is_judged_once_and_only_when_it_comes_up() {
        let (queue, shares) = (queue(&jobs()), Shares::default());
        let mut judged = Vec::new();
        let fits = |needs: &Needs| {
            judged.push(needs.workers);
            false
        };
        let none = queue.fitting(&shares, fits, take);
        assert_eq!(none.count(), 0);
        judged.sort_unstable();
        assert_eq!(judged, [1, 2, 3, 4]);
        let mut judged = 0;
        let fits = |_: &Needs| {
            judged += 1;
            true
        };
        let mut all = queue.fitting(&shares, fits, take);
        assert!(all.next().is_some());
        drop(all);
        assert_eq!(judged, 1);
    }

    /// Where an owner may have no more, its line costs one look and not one for each job; others
    /// come up all the same.
    #[test]
    fn what_is_behind_a_job_in_its_line_may_be_passed_at_once() {
        let (mut jobs, shares) = owned();
        for job in &mut jobs {
            job.spec.priority = 0;
        }
        let queue = queue(&jobs);
        let owner = |id: JobId| jobs[id.0 as usize - 1].spec.owner.as_str();
        let mut asked = 0;
        let turn = |id| match owner(id) {
            "new" if id.0 > 9 => {
                asked += 1;
                Turn::PassAll
            }
            _ => Turn::Take,
        };
        let found: Vec<JobId> = queue.fitting(&shares, |_| true, turn).collect();
        let of_new = found.iter().filter(|id| owner(**id) == "new");
        assert!(of_new.clone().count() > 0 && of_new.clone().all(|id| id.0 <= 9));
        let others = jobs.iter().filter(|job| job.spec.owner != "new").count();
        assert_eq!(found.len() - of_new.count(), others);
        // Once for each of the four classes at the most, and once for the line.
        assert!((1..=5).contains(&asked), "{asked}");
    }

    /// More jobs than are counted together.
    #[test]
    fn a_place_is_the_number_of_those_before_it() {
        let mut queue = Queue::default();
        let all: Vec<Job> = (1000..3500).step_by(3).map(|id| job(id, 0, 1)).collect();
        all.iter().for_each(|job| queue.insert(job));
        let shares = Shares::default();
        let place = |queue: &Queue, job: &Job| queue.before(job.id, &shares);
        for (before, job) in all.iter().enumerate() {
            assert_eq!(place(&queue, job), before);
        }
        queue.remove(all[1].id);
        queue.remove(all[1].id);
        assert_eq!(place(&queue, &all[0]), 0);
        assert_eq!(place(&queue, &all[700]), 699);
        queue.keep_for(all[600].id);
        let places = [500, 600, 700].map(|i| place(&queue, &all[i]));
        assert_eq!(places, [500, 0, 699]);
    }

    #[test]
    fn nothing_is_left_of_classes_without_jobs() {
        let mut queue = queue(&jobs());
        for id in 1..=30 {
            queue.remove(JobId(id));
        }
        assert!(queue.is_empty() && queue.classes.is_empty());
        assert!(queue.order.is_empty() && queue.holds.is_empty());
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
