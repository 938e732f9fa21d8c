//! The waiting jobs of one owner and one priority, and how several such lines are walked in the
//! order of all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, btree_map, btree_set};

use super::classes::ClassId;
use super::share::Standing;
use crate::ids::JobId;

/// Jobs by their number, and by their class.
#[derive(Debug, Default)]
pub(super) struct Line {
    jobs: BTreeSet<JobId>,
    classes: HashMap<ClassId, BTreeSet<JobId>>,
    /// Every class at its first job.
    heads: BTreeMap<JobId, ClassId>,
}

impl Line {
    pub fn insert(&mut self, id: JobId, class: ClassId) {
        self.jobs.insert(id);
        self.change(class, |jobs| {
            jobs.insert(id);
        });
    }

    pub fn remove(&mut self, id: JobId, class: ClassId) {
        self.jobs.remove(&id);
        self.change(class, |jobs| {
            jobs.remove(&id);
        });
    }

    pub fn jobs(&self) -> &BTreeSet<JobId> {
        &self.jobs
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

    /// The next job of a class that `fits`, which is asked when the first job of one comes up.
    pub fn next_fitting(&mut self, mut fits: impl FnMut(ClassId) -> bool) -> Option<JobId> {
        loop {
            let Reverse((standing, id, source)) = self.next.pop()?;
            match source {
                Source::Head(line, class) => {
                    self.push_head(standing, line);
                    let jobs = self.lines[line].0.classes.get(&class);
                    let Some(jobs) = jobs.filter(|_| fits(class)) else {
                        continue;
                    };
                    let mut rest = jobs.iter();
                    // The first of them is `id`.
                    rest.next();
                    self.rests.push(rest);
                    self.push_rest(standing, self.rests.len() - 1);
                }
                Source::Rest(rest) => self.push_rest(standing, rest),
            }
            return Some(id);
        }
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
