//! Attempts that run for as long as their job allows.

use super::state::Engine;
use crate::event::Effects;
use crate::ids::{Now, Token};
use crate::job::{AfterStop, JobState, Stop};

impl Engine {
    /// Counts the time of the attempt `token`, which has run for `passed` milliseconds of the
    /// `limit` of its job.
    ///
    /// After a restart of the coordinator `passed` is taken from the wall clock, the only one that
    /// went on.
    pub(super) fn limit_time(&mut self, now: Now, token: Token, limit: Option<u64>, passed: u64) {
        if let Some(limit) = limit {
            let until = now.steady.plus(limit.saturating_sub(passed));
            self.time_limits.set(&token, Some(until));
        }
    }

    /// Asks attempts to save and stop whose time is over.
    pub(super) fn stop_overdue(&mut self, now: Now, effects: &mut Effects) {
        let over: Vec<Token> = self.time_limits.due(now.steady).copied().collect();
        for token in over {
            self.time_limits.set(&token, None);
            let Some(job) = self.running.get(&token).and_then(|id| self.jobs.get(id)) else {
                continue;
            };
            let goes_on = matches!(
                job.state,
                JobState::Running {
                    stopping: None
                        | Some(Stop {
                            then: AfterStop::Queued,
                            ..
                        }),
                    ..
                }
            );
            if goes_on {
                let minutes = job.spec.time_limit.unwrap_or_default() as f64 / 60_000.0;
                let reason = format!("its time limit is over: resources.max_minutes is {minutes}");
                let then = AfterStop::Cancelled;
                self.ask_to_stop(job.id, Stop { reason, then }, effects);
            }
        }
    }
}
