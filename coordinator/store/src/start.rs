//! What a start reads of jobs, out of either database: live ones whole, ended ones in brief.

use qlora_engine::{Ended, Job};

use crate::records::{Stored, Unreadable};
use crate::rows::{self, Columns};

/// Ended jobs that are read at one time.
pub(super) const BRIEFS: i64 = 5000;

/// The text of what a coordinator has to know of `job` once it has ended; none before.
pub(super) fn brief(job: &Job) -> Result<Option<String>, serde_json::Error> {
    let ended = Ended::of(job);
    ended.as_ref().map(serde_json::to_string).transpose()
}

/// Adds the job of `row`.
pub(super) fn add_job(row: &impl Columns, stored: &mut Stored) {
    match rows::job(row) {
        Ok(job) => match Ended::of(&job) {
            Some(ended) => stored.ended.push(ended),
            None => stored.jobs.push(job),
        },
        Err(aside) => set_aside(aside, stored),
    }
}

/// Adds the ended jobs of `briefs`, a list as JSON; none of them where one cannot be read, and then
/// it returns false.
pub(super) fn add_briefs(briefs: &str, stored: &mut Stored) -> bool {
    let ended = serde_json::from_str::<Vec<Ended>>(briefs);
    let is_readable = ended.is_ok();
    stored.ended.extend(ended.unwrap_or_default());
    is_readable
}

/// Adds the ended job of `row` by its brief; where that cannot be read, the job tells.
pub(super) fn add_ended(row: &impl Columns, stored: &mut Stored) {
    let brief = row.text("brief").ok().flatten();
    let ended = brief.and_then(|text| serde_json::from_str::<Ended>(&text).ok());
    if let Some(ended) = ended {
        stored.ended.push(ended);
        return;
    }
    match rows::job(row) {
        Ok(job) => stored.ended.extend(Ended::of(&job)),
        Err(aside) => set_aside(aside, stored),
    }
}

/// The key of a job that cannot be read stays taken.
fn set_aside((unreadable, key): (Unreadable, Option<String>), stored: &mut Stored) {
    let key = key.map(|key| (key, unreadable.job));
    stored.reserved.keys.extend(key);
    stored.unreadable.push(unreadable);
}
