//! A simulation of one coordinator, its store, its workers and a person, in simulated time.
//!
//! The coordinator's driver, services and doors run as they are, and the client of the others does.
//! The network is turmoil's, the disk is [`disk`], and children train by the clock. What happens is
//! a [`Schedule`], which is a function of its seed. A [`Witness`] sees everything, and says which
//! rule was broken first.
//!
//! Nothing but the seed decides on the course. Tokio's own random numbers are not the seed's, and so
//! code that is simulated says `biased` in every `select!`, and lets at most one task wait on a
//! `watch` channel, which wakes several in any order.
//!
//! What is not simulated: the agent's own loop (the worker here speaks in its order), TLS, SQLite's
//! own files, and threads.

mod clocks;
mod coordinator;
mod disk;
mod lines;
mod person;
mod schedule;
mod sights;
mod upload;
mod witness;
mod worker;
mod world;

use std::fmt;
use std::path::Path;
use std::sync::Once;

use qlora_client::simulated::{self, Dialing, Io};

use self::lines::Line;
pub use self::schedule::Schedule;
pub use self::sights::{Sight, Tally};
use self::witness::Witness;
use self::world::World;

/// What was seen in a simulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub schedule: Schedule,
    /// What happened, with the time of each.
    pub log: Vec<String>,
    /// The rule that was broken first.
    pub broken: Option<String>,
    /// How often each kind of fault and of event was met.
    pub tally: Tally,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.schedule)?;
        for line in &self.log {
            writeln!(f, "{line}")?;
        }
        match &self.broken {
            Some(rule) => writeln!(f, "seed {} breaks a rule: {rule}", self.schedule.seed),
            None => writeln!(f, "seed {} breaks no rule", self.schedule.seed),
        }
    }
}

/// Simulates what `seed` gives.
pub fn simulate(seed: u64) -> Report {
    install();
    let schedule = Schedule::of(seed);
    let witness = Witness::new(schedule.lease);
    let done = run(schedule.clone(), witness.clone());
    if let Err(fault) = done {
        witness.accuse(format!("the simulation failed: {fault}"));
    }
    Report {
        schedule,
        log: witness.log(),
        broken: witness.broken(),
        tally: witness.tally(),
    }
}

fn run(schedule: Schedule, witness: Witness) -> turmoil::Result {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        // Nobody asks what a power failure leaves of it: no write need wait for a disk.
        tempfile::tempdir_in(memory)?
    } else {
        tempfile::tempdir()?
    };
    World::new(schedule, folder.path().to_owned(), witness)?.run()
}

/// Makes this process live in simulated time and on simulated networks.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        clocks::install();
        simulated::replace(connect);
    });
}

fn connect(host: String, port: u16) -> Dialing {
    Box::pin(async move {
        let stream = turmoil::net::TcpStream::connect((host, port)).await?;
        Ok(Box::new(Line::new(stream)?) as Box<dyn Io>)
    })
}
