//! What several commands do with a job: submit it, find it, follow it, fetch what it made.
//!
//! Nothing here reads arguments or prints a result; that is a command's part.

mod absence;
pub mod artifact;
pub mod confirm;
pub mod follow;
pub mod log;
pub mod record;
pub mod submit;
pub mod waiting;
pub mod watch;
