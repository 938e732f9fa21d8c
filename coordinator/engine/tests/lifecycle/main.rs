//! The life of jobs and workers, event by event: each test takes the expected answers and effects.

mod attribution;
mod away;
mod dependencies;
mod drains;
mod durable;
mod groups;
mod histories;
mod jobs;
mod leases;
mod pauses;
mod preferences;
mod priorities;
mod quotas;
mod repeats;
mod reservations;
mod restarts;
mod results;
mod retention;
mod sessions;
mod shares;
mod wakes;
mod world;
