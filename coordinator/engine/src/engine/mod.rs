//! The one function that changes the state: it hands each event to its own transition.

mod attempts;
mod away;
mod by_time;
mod choice;
mod classes;
mod deadlines;
mod dependencies;
mod dependents;
mod draining;
mod drains;
mod durable;
mod ended_jobs;
mod jobs;
mod limits;
mod line;
mod needed;
mod next;
mod pauses;
mod queue;
mod quotas;
mod repeats;
mod reservation;
mod retention;
mod roster;
mod secrets;
mod share;
mod state;
mod submissions;
mod time_limit;
mod wakes;
mod workers;

pub use self::durable::Reserved;
pub use self::limits::Limits;
use self::next::Ending;
use self::repeats::Again;
pub use self::reservation::Reservation;
pub use self::secrets::Seed;
pub use self::share::Usage;
pub use self::state::Engine;
use self::workers::{Coming, Seen};
use crate::event::{Effect, Event, Response};
use crate::ids::Now;

impl Engine {
    /// Takes one event at time `now`.
    pub fn handle(&mut self, now: Now, event: Event) -> (Response, Vec<Effect>) {
        let mut effects = Vec::new();
        let result = match event {
            Event::Submit { spec } => self.submit(now, *spec, &mut effects),
            Event::Cancel { job, reason } => self.cancel(now, job, reason, &mut effects),
            Event::Pause { job, reason } => self.pause(now, job, reason, &mut effects),
            Event::Resume { job, from } => self.resume(now, job, from, &mut effects),
            Event::Retry {
                job,
                from_start,
                idempotency_key,
                owner,
            } => {
                let again = Again {
                    from_start,
                    idempotency_key,
                    owner,
                };
                self.retry(now, job, again, &mut effects)
            }
            Event::RemoveJob { job } => self.remove_job(job, None, &mut effects),
            Event::Prune { job, what, reason } => self.prune(job, what, &reason, &mut effects),
            Event::Register {
                name,
                instance,
                previous,
                platform,
                running,
            } => {
                let coming = Coming {
                    name,
                    instance,
                    previous,
                    running,
                };
                self.register(now, coming, *platform, &mut effects)
            }
            Event::Synchronize {
                session,
                running,
                memory_free,
                disk_free,
                models,
                draining,
            } => {
                let seen = Seen {
                    running,
                    memory_free,
                    disk_free,
                    models,
                    draining,
                };
                self.synchronize(now, session, seen, &mut effects)
            }
            Event::Leave { session } => {
                self.leave(now, session, &mut effects);
                Ok(Response::Done)
            }
            Event::RemoveWorker { name } => self.remove_worker(name, &mut effects),
            Event::Drain {
                worker,
                reason,
                at_once,
            } => self.drain(now, &worker, reason, at_once, &mut effects),
            Event::Undrain { worker } => self.undrain(now, &worker, &mut effects),
            Event::DrainQueue { reason } => {
                self.drain_queue(now, reason, &mut effects);
                Ok(Response::Done)
            }
            Event::UndrainQueue => {
                self.undrain_queue(now, &mut effects);
                Ok(Response::Done)
            }
            Event::Report {
                session,
                token,
                batch,
                progress,
            } => self.report((session, token), batch, progress.map(|p| *p), &mut effects),
            Event::Commit {
                session,
                token,
                artifact,
            } => self.commit((session, token), artifact, &mut effects),
            Event::Finish {
                session,
                token,
                outcome,
                message,
                code,
            } => {
                let ending = Ending {
                    code,
                    ..Ending::new(outcome, message)
                };
                self.finish(now, (session, token), ending, &mut effects)
            }
            Event::Offer {
                session,
                token,
                rendezvous,
            } => self.offer((session, token), rendezvous, &mut effects),
            Event::Tick => {
                self.tick(now, &mut effects);
                Ok(Response::Done)
            }
            Event::Stalled { ms } => {
                self.extend_leases(ms);
                Ok(Response::Done)
            }
        };
        match result {
            Ok(response) => (response, effects),
            Err(refusal) => (Response::Refused(refusal), effects),
        }
    }
}
