//! The waiting jobs of one owner and one priority, and how several such lines are walked in the
//! order of all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_map, btree_set};

use super::classes::ClassId;
use super::share::Standing;
use crate::ids::JobId;

/// Numbers of jobs that are counted together.
const BLOCK: u64 = 1024;

/// Jobs by their number, and by their class.
#[derive(Debug, Default)]
pub(super) struct Line {
    jobs: BTreeSet<JobId>,
    /// How many jobs there are of each block of numbers, so that a place is found without a count
    /// of all that stand before it.
    blocks: BTreeMap<u64, usize>,
    classes: HashMap<ClassId, BTreeSet<JobId>>,
    /// Every class at its first job.
    heads: BTreeMap<JobId, ClassId>,
}

impl Line {
    pub fn insert(&mut self, id: JobId, class: ClassId) {
        if self.jobs.insert(id) {
            *self.blocks.entry(id.0 / BLOCK).or_default() += 1;
        }
        self.change(class, |jobs| {
            jobs.insert(id);
        });
    }

    pub fn remove(&mut self, id: JobId, class: ClassId) {
        if self.jobs.remove(&id) {
            self.count_out(id.0 / BLOCK);
        }
        self.change(class, |jobs| {
            jobs.remove(&id);
        });
    }

    pub fn jobs(&self) -> &BTreeSet<JobId> {
        &self.jobs
    }

    /// How many have smaller numbers than `id`.
    pub fn before(&self, id: JobId) -> usize {
        let block = id.0 / BLOCK;
        let whole: usize = self.blocks.range(..block).map(|(_, jobs)| jobs).sum();
        whole + self.jobs.range(JobId(block * BLOCK)..id).count()
    }

    fn count_out(&mut self, block: u64) {
        if let Some(jobs) = self.blocks.get_mut(&block) {
            *jobs -= 1;
            if *jobs == 0 {
                self.blocks.remove(&block);
            }
        }
    }

    /// Changes the jobs of a class, and keeps its place among the others.
    fn change(&mut self, id: ClassId, change: impl FnOnce(&mut BTreeSet<JobId>)) {
        let class = self.classes.entry(id).or_default();
        if let Some(head) = class.first() {
            self.heads.remove(head);
        }
        change(class);
        match class.first() {
            Some(head) => drop(self.heads.insert(*head, id)),
            None => drop(self.classes.remove(&id)),
        }
    }
}

/// What is done with a job that comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Take,
    Pass,
    /// It is passed, and with it all behind it of the same owner and priority: it is asked of some
    /// of them again, and has to say the same.
    PassAll,
}

/// Jobs of several lines: by where the owner of their line stands, and then by their number.
#[derive(Default)]
pub(super) struct Walk<'a> {
    next: BinaryHeap<Reverse<(Standing, JobId, Source)>>,
    lines: Vec<(&'a Line, btree_map::Iter<'a, JobId, ClassId>)>,
    /// What is left of the classes that have come up and fit.
    rests: Vec<btree_set::Iter<'a, JobId>>,
}

/// Where the job behind one comes from.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// It is the first of a class that was not judged yet, of a line.
    Head(usize, ClassId),
    Rest(usize),
}

impl<'a> Walk<'a> {
    pub fn add(&mut self, standing: Standing, line: &'a Line) {
        self.lines.push((line, line.heads.iter()));
        self.push_head(standing, self.lines.len() - 1);
    }

    /// The next job of a class that `fits`, which is asked when the first job of one comes up, and
    /// whose own `turn` it is.
    pub fn next_fitting(
        &mut self,
        mut fits: impl FnMut(ClassId) -> bool,
        mut turn: impl FnMut(JobId) -> Turn,
    ) -> Option<JobId> {
        loop {
            let Reverse((standing, id, source)) = self.next.pop()?;
            let turn = match source {
                Source::Head(line, class) if !fits(class) => {
                    self.push_head(standing, line);
                    continue;
                }
                Source::Head(..) | Source::Rest(_) => turn(id),
            };
            match source {
                // What is behind it in its line, or in its class, does not come up.
                _ if turn == Turn::PassAll => {}
                Source::Head(line, class) => {
                    self.push_head(standing, line);
                    self.begin_rest(standing, line, class);
                }
                Source::Rest(rest) => self.push_rest(standing, rest),
            }
            if turn == Turn::Take {
                return Some(id);
            }
        }
    }

    /// The first job of `class` has come up; those behind it follow.
    fn begin_rest(&mut self, standing: Standing, line: usize, class: ClassId) {
        let Some(jobs) = self.lines[line].0.classes.get(&class) else {
            return;
        };
        let mut rest = jobs.iter();
        rest.next();
        self.rests.push(rest);
        self.push_rest(standing, self.rests.len() - 1);
    }

    fn push_head(&mut self, standing: Standing, line: usize) {
        if let Some((id, class)) = self.lines[line].1.next() {
            let source = Source::Head(line, *class);
            self.next.push(Reverse((standing, *id, source)));
        }
    }

    fn push_rest(&mut self, standing: Standing, rest: usize) {
        if let Some(id) = self.rests[rest].next() {
            self.next.push(Reverse((standing, *id, Source::Rest(rest))));
        }
    }
}
