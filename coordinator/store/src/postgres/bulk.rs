//! Many rows by one statement: each statement is a way to the server and back, and that takes longer
//! than most rows.
//!
//! Every column travels as one array, and the server makes rows of them.

use std::collections::{BTreeMap, HashMap};

use qlora_engine::{Job, JobId};

use super::briefs::save_briefs;
use super::fault::written;
use super::writer::Transaction;
use super::writes::writable;
use crate::error::StoreError;
use crate::records::{By, JournalEntry, LogRecord, MetricRecord};
use crate::rows;

/// Rows of one statement at the most, and bytes of their texts: its arrays lie in the server's memory,
/// and on a slow way the server must not take it for one that stands still.
const ROWS: usize = 1000;
const BYTES: usize = 1 << 20;

/// What a number takes as text, about.
const NUMBER: usize = 24;

const SAVE_JOBS: &str = "
INSERT INTO jobs (id, spec, body, state)
SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (id) DO UPDATE SET body = excluded.body, state = excluded.state";

/// Rows are numbered behind what is there when the statement begins.
const ADD_METRICS: &str = "
WITH added AS (
    INSERT INTO metrics (job, seq, step, unix_ms, vals)
    SELECT job, place + COALESCE((SELECT MAX(seq) FROM metrics WHERE metrics.job = n.job), 0), step, unix_ms, vals
    FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[]) AS n (job, place, step, unix_ms, vals)
    RETURNING job, seq
)
SELECT job, MIN(seq), MAX(seq) FROM added GROUP BY job";

/// As [`ADD_METRICS`].
const ADD_LOGS: &str = "
WITH added AS (
    INSERT INTO logs (job, seq, unix_ms, level, text, token)
    SELECT job, place + COALESCE((SELECT MAX(seq) FROM logs WHERE logs.job = n.job), 0), unix_ms, level, text, token
    FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::bigint[]) AS n (job, place, unix_ms, level, text, token)
    RETURNING job, seq
)
SELECT job, MIN(seq), MAX(seq) FROM added GROUP BY job";

const ADD_ENTRIES: &str = "
INSERT INTO journal (seq, unix_ms, job, worker, kind, text, who, origin, act)
SELECT * FROM UNNEST($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[])";

const TRIM_JOURNAL: &str = "
DELETE FROM journal WHERE seq <= $1 AND (who IS NULL OR seq <= (
    SELECT seq FROM journal WHERE seq <= $1 AND who IS NOT NULL ORDER BY seq DESC LIMIT 1 OFFSET $2
))";

/// A job, and the first and the last number of what was added to it.
type Added = (i64, i64, i64);

impl Transaction<'_> {
    pub(super) async fn save_jobs(&mut self, jobs: Vec<Job>) -> Result<(), StoreError> {
        let tokens = jobs.iter().flat_map(|job| &job.attempts);
        let token = tokens.map(|attempt| attempt.token.0 as i64);
        self.greatest = (
            jobs.iter()
                .map(|job| job.id.0 as i64)
                .fold(self.greatest.0, i64::max),
            token.fold(self.greatest.1, i64::max),
        );
        // One statement may change a row once: of a job that comes twice the last one counts.
        let jobs: BTreeMap<JobId, Job> = jobs.into_iter().map(|job| (job.id, job)).collect();
        let split: Result<Vec<_>, StoreError> = jobs.values().map(rows::split).collect();
        let all: Vec<_> = jobs.values().zip(split?).collect();
        for piece in pieces(&all, |(_, (spec, body))| spec.len() + body.len()) {
            let asked = sqlx::query(SAVE_JOBS)
                .bind(column(piece, |(job, _)| job.id.0 as i64))
                .bind(column(piece, |(_, (spec, _))| spec.as_str()))
                .bind(column(piece, |(_, (_, body))| body.as_str()))
                .bind(column(piece, |(job, _)| job.state.word()))
                .execute(&mut self.connection);
            written(self.database, asked).await?;
            let asked = save_briefs(&mut self.connection, piece.iter().map(|(job, _)| *job));
            written(self.database, asked).await?;
        }
        Ok(())
    }

    pub(super) async fn add_metrics(
        &mut self,
        points: &[(JobId, MetricRecord)],
    ) -> Result<(), StoreError> {
        let mut all = Vec::new();
        let bytes = |(_, point): &(JobId, MetricRecord)| {
            let values = point.values.keys();
            values.map(|name| name.len() + NUMBER).sum()
        };
        for piece in pieces(points, bytes) {
            let values: Result<Vec<String>, StoreError> = piece
                .iter()
                .map(|(job, point)| rows::values(*job, point))
                .collect();
            let asked = sqlx::query_as(ADD_METRICS)
                .bind(column(piece, |(job, _)| job.0 as i64))
                .bind(places(piece))
                .bind(column(piece, |(_, point)| point.step as i64))
                .bind(column(piece, |(_, point)| point.unix_ms as i64))
                .bind(values?)
                .fetch_all(&mut self.connection);
            let added: Vec<Added> = written(self.database, asked).await?;
            all.extend(added);
        }
        for (job, first, last) in of_each(all) {
            if let Some(thinning) = self.bounds.thinning(first, last) {
                self.thin(job, thinning).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn add_logs(
        &mut self,
        lines: &[(JobId, LogRecord)],
    ) -> Result<(), StoreError> {
        let mut all = Vec::new();
        for piece in pieces(lines, |(_, line)| line.level.len() + line.text.len()) {
            let asked = sqlx::query_as(ADD_LOGS)
                .bind(column(piece, |(job, _)| job.0 as i64))
                .bind(places(piece))
                .bind(column(piece, |(_, line)| line.unix_ms as i64))
                .bind(column(piece, |(_, line)| owned(&line.level)))
                .bind(column(piece, |(_, line)| owned(&line.text)))
                .bind(column(piece, |(_, line)| line.token as i64))
                .fetch_all(&mut self.connection);
            let added: Vec<Added> = written(self.database, asked).await?;
            all.extend(added);
        }
        for (job, first, last) in of_each(all) {
            if let Some(until) = self.bounds.cut_log(first, last) {
                let statement = "DELETE FROM logs WHERE job = $1 AND seq <= $2";
                self.numbers(statement, &[job.0, until]).await?;
            }
        }
        Ok(())
    }

    /// Numbers `entries`, adds them, and returns them.
    pub(super) async fn add_entries(
        &mut self,
        mut entries: Vec<JournalEntry>,
    ) -> Result<Vec<JournalEntry>, StoreError> {
        for entry in &mut entries {
            self.journal += 1;
            entry.seq = self.journal as u64;
        }
        for piece in pieces(&entries, |entry| entry.text.len()) {
            let of_by = |of: fn(&By) -> &str| {
                column(piece, |entry| entry.by.as_ref().map(|by| owned(of(by))))
            };
            let asked = sqlx::query(ADD_ENTRIES)
                .bind(column(piece, |entry| entry.seq as i64))
                .bind(column(piece, |entry| entry.unix_ms as i64))
                .bind(column(piece, |entry| entry.job.map(|job| job.0 as i64)))
                .bind(column(piece, |entry| entry.worker.as_deref().map(owned)))
                .bind(column(piece, |entry| owned(&entry.kind)))
                .bind(column(piece, |entry| owned(&entry.text)))
                .bind(of_by(|by| &by.who))
                .bind(of_by(|by| &by.from))
                .bind(of_by(|by| &by.act))
                .execute(&mut self.connection);
            written(self.database, asked).await?;
        }
        let cuts = entries.iter().map(|entry| entry.seq);
        let until = cuts.filter_map(|seq| self.bounds.cut_journal(seq)).max();
        if let Some(until) = until {
            // No index is needed: before `until` little more lies than what the bound lets stay.
            self.numbers(TRIM_JOURNAL, &[until, self.bounds.asked])
                .await?;
        }
        Ok(entries)
    }
}

/// Cuts `rows` so that each piece is for one statement; a row alone may be larger.
fn pieces<R>(rows: &[R], bytes: impl Fn(&R) -> usize) -> impl Iterator<Item = &[R]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut all = 0;
        let fits = |row: &&R| {
            all += bytes(row);
            all <= BYTES
        };
        let fitting = rest.iter().take(ROWS).take_while(fits).count();
        let (piece, further) = rest.split_at_checked(fitting.max(1))?;
        rest = further;
        Some(piece)
    })
}

fn column<'a, R, T>(rows: &'a [R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn owned(text: &str) -> String {
    writable(text).into_owned()
}

/// The place of each row among those of its job, from 1.
fn places<T>(rows: &[(JobId, T)]) -> Vec<i64> {
    let mut last: HashMap<JobId, i64> = HashMap::new();
    column(rows, |(job, _)| *job)
        .into_iter()
        .map(|job| {
            let place = last.entry(job).or_default();
            *place += 1;
            *place
        })
        .collect()
}

/// What several statements have added, by job.
fn of_each(all: Vec<Added>) -> impl Iterator<Item = (JobId, u64, u64)> {
    let mut added: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    for (job, first, last) in all {
        let (least, greatest) = added.entry(job).or_insert((first, last));
        (*least, *greatest) = (first.min(*least), last.max(*greatest));
    }
    let numbers = |(job, (first, last))| (JobId(job as u64), first as u64, last as u64);
    added.into_iter().map(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_so_many_rows_and_bytes_and_one_row_at_the_least() {
        let large = BYTES / 2;
        let rows = [1, large, large, large, 3 * large, 1, 1];
        let found: Vec<&[usize]> = pieces(&rows, |row| *row).collect();
        assert_eq!(
            found,
            [&[1, large][..], &[large, large], &[3 * large], &[1, 1]]
        );
        let many = vec![0; ROWS + 1];
        let lengths = pieces(&many, |row| *row).map(<[usize]>::len);
        assert_eq!(lengths.collect::<Vec<_>>(), [ROWS, 1]);
        assert_eq!(pieces(&[0; 0], |row| *row).count(), 0);
    }
}
