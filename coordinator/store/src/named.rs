//! Rows that cannot be read are named in the log, each once; what is left of them is shown.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use qlora_engine::JobId;

use crate::error::StoreError;
use crate::records::{Stored, TokenRecord, Unreadable};
use crate::rows::{self, Columns};

/// Rows that cannot be read and are named in the log; further ones are passed over in silence.
const NAMED: usize = 1000;

/// What the log has named: a page that renews itself must not fill it.
#[derive(Default)]
pub(super) struct Named(Mutex<HashSet<String>>);

impl Named {
    /// Says once that `what` cannot be read.
    pub fn say(&self, what: &str, fault: &str) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() < NAMED && named.insert(what.to_owned()) {
            tracing::error!("{what} in the database cannot be read: {fault}");
        }
    }

    /// What is left of a record; where there is a fault, it is named as `what` calls it.
    fn left<T>(&self, read: rows::Read<T>, what: impl FnOnce(&T) -> String) -> T {
        let rows::Read { value, fault } = read;
        if let Some(fault) = fault {
            self.say(&what(&value), &fault);
        }
        value
    }

    /// Reads every row with `read`; where it finds a fault, what is left of the row is shown and
    /// the row is named.
    pub fn read<R: Columns, T>(
        &self,
        rows: &[R],
        what: &str,
        read: impl Fn(&R) -> rows::Read<T>,
    ) -> Vec<T> {
        let each = |row: &R| {
            self.left(read(row), |_| {
                let seq = row.number("seq").ok().flatten().unwrap_or_default();
                format!("{what} {seq}")
            })
        };
        rows.iter().map(each).collect()
    }

    /// A record that is of no use in part: one that cannot be read is named and left out.
    pub fn readable<T>(&self, found: Result<T, StoreError>) -> Option<T> {
        match found {
            Err(StoreError::Unreadable { what, fault }) => {
                self.say(&what, &fault);
                None
            }
            other => other.ok(),
        }
    }

    /// Adds the drained workers of `rows`.
    pub fn drains<R: Columns>(&self, rows: &[R], stored: &mut Stored) {
        let each = |row: &R| {
            self.left(rows::drain(row), |(worker, _)| {
                format!("the drain of worker {worker}")
            })
        };
        stored.drains.extend(rows.iter().map(each));
    }

    pub fn tokens<R: Columns>(&self, rows: &[R]) -> Vec<TokenRecord> {
        let each = |row: &R| self.left(rows::token(row), |token| format!("token {}", token.id));
        rows.iter().map(each).collect()
    }
}

/// Marks those of `unreadable` of which the entries `rows` tell already, and of the same fault.
pub(super) fn mark_told<R: Columns>(rows: &[R], unreadable: &mut [Unreadable]) {
    let told: HashSet<(Option<JobId>, String)> = rows
        .iter()
        .map(|row| rows::entry(row).value)
        .map(|entry| (entry.job, entry.text))
        .collect();
    for found in unreadable {
        found.told = told.contains(&(Some(found.job), found.fault.clone()));
    }
}
