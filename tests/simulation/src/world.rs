//! One simulation: machines, a network, and what the schedule does to them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use qlora_access::Token;
use qlora_engine::JobState;
use tokio::sync::mpsc;
use turmoil::{Builder, Sim};

use crate::clocks;
use crate::coordinator::{self, Host};
use crate::disk::{self, Disk, Weather};
use crate::lines;
use crate::person::{self, Person, Wish, worker_name};
use crate::schedule::{Act, Ask, Direction, Schedule};
use crate::sights::Sight;
use crate::witness::Witness;
use crate::worker::{self, Machine};

/// How long a message is on its way.
const LATENCY: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(120)];
/// How often durable state is compared with what was acknowledged.
const LOOK: Duration = Duration::from_secs(1);
/// How often a person helps jobs along, once everything is repaired.
const HELP: Duration = Duration::from_secs(5);
/// How long jobs may take to end, once everything is repaired.
const PATIENCE: Duration = Duration::from_secs(1_500);
/// Messages that wait for one receiver.
const CAPACITY: usize = 4_096;

/// What is wrong with links to the coordinator, by the machine at their other end.
#[derive(Default)]
struct Links {
    cut: BTreeMap<String, Direction>,
    held: BTreeSet<String>,
    /// Machines that stand still.
    still: BTreeSet<String>,
    /// The coordinator stands still.
    paused: bool,
}

pub struct World<'a> {
    sim: Sim<'a>,
    schedule: Schedule,
    witness: Witness,
    host: Arc<Host>,
    workers: Vec<Arc<Machine>>,
    /// By worker.
    copies: BTreeMap<usize, Arc<Machine>>,
    links: Links,
    wishes: mpsc::UnboundedSender<Wish>,
    asked: usize,
    /// Jobs that a person submits.
    submissions: usize,
}

impl World<'_> {
    /// The machines of `schedule`, with their files in `folder`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn new(schedule: Schedule, folder: PathBuf, witness: Witness) -> turmoil::Result<Self> {
        clocks::begin();
        lines::begin();
        let secret = "0123456789abcdef".repeat(4);
        let token_file = folder.join("token");
        std::fs::write(&token_file, &secret)?;
        let token = Token::parse(&secret, "the simulation")?;
        let host = Arc::new(Host {
            disk: Arc::new(Disk::new(Weather::new(schedule.seed, witness.clone()))),
            folder: folder.join("artifacts"),
            token,
            lease: schedule.lease,
            seed: schedule.seed,
            witness: witness.clone(),
            starts: AtomicU64::new(0),
        });
        let mut sim = network(schedule.seed, schedule.tick);
        let own = host.clone();
        sim.host(coordinator::NAME, move || own.clone().run());
        let machine = |i| Machine::new(&worker_name(i), token_file.clone(), witness.clone());
        let workers: Vec<_> = (0..schedule.workers)
            .map(|i| Arc::new(machine(i)))
            .collect();
        for worker in &workers {
            let own = worker.clone();
            sim.host(worker.host.clone(), move || worker::run(own.clone()));
        }
        let (wishes, waiting) = mpsc::unbounded_channel();
        let person = Arc::new(Person {
            token_file,
            witness: witness.clone(),
            wishes: Mutex::new(Some(waiting)),
        });
        sim.host(person::HOST, move || person.clone().run());
        let is_submission =
            |(_, act): &&(Duration, Act)| matches!(act, Act::Ask(Ask::Submit { .. }));
        Ok(Self {
            sim,
            submissions: schedule.acts.iter().filter(is_submission).count(),
            schedule,
            witness,
            host,
            workers,
            copies: BTreeMap::new(),
            links: Links::default(),
            wishes,
            asked: 0,
        })
    }

    /// Runs to the end; the witness knows what was broken.
    ///
    /// # Errors
    /// A program of the simulation has failed.
    pub fn run(mut self) -> turmoil::Result {
        for (at, act) in std::mem::take(&mut self.schedule.acts) {
            self.run_until(at)?;
            self.act(act);
        }
        self.run_until(self.schedule.end)?;
        self.repair();
        self.end()
    }

    fn run_until(&mut self, until: Duration) -> turmoil::Result {
        while self.sim.elapsed() < until && self.witness.broken().is_none() {
            self.sim.step()?;
            let now = self.sim.elapsed();
            clocks::rest(now);
            if is_time(now, LOOK, self.schedule.tick) {
                self.witness.look(disk::jobs(&self.host.disk));
            }
        }
        Ok(())
    }

    fn act(&mut self, act: Act) {
        self.witness.note("schedule", format!("{act:?}"));
        match act {
            Act::Ask(ask) => {
                self.asked += 1;
                drop(self.wishes.send(Wish::Ask(self.asked, ask)));
            }
            Act::KillWorker { worker, keeps } => self.kill_worker(worker, keeps),
            Act::StartWorker(i) => self.start(&worker_name(i)),
            Act::PauseWorker(i) => self.pause_worker(i),
            Act::ResumeWorker(i) => self.resume_worker(i),
            Act::CopyWorker { worker, stranger } => self.copy(worker, stranger),
            Act::KillCopy(i) => self.kill_copy(i),
            Act::Deafen(i, time) => self.workers[i].deafen(clocks::now() + time),
            Act::Repeat(i) => self.workers[i].repeat(),
            Act::Claim(i) => self.workers[i].claim(),
            Act::KillCoordinator { torn } => self.kill_coordinator(torn),
            Act::StartCoordinator => self.start(coordinator::NAME),
            Act::PauseCoordinator => self.pause_coordinator(),
            Act::ResumeCoordinator { slept } => self.resume_coordinator(slept),
            Act::Cut(i, way) => {
                self.witness.saw(match way {
                    Direction::ToCoordinator => Sight::CutToCoordinator,
                    Direction::FromCoordinator => Sight::CutFromCoordinator,
                    Direction::Both => Sight::CutBoth,
                });
                self.links.cut.insert(worker_name(i), way);
                self.link(&worker_name(i));
            }
            Act::Hold(i) => {
                self.witness.saw(Sight::MessagesHeld);
                self.links.held.insert(worker_name(i));
                self.link(&worker_name(i));
            }
            Act::Repair(i) => self.mend(i),
            Act::StepWall { ms } => {
                self.witness.saw(if ms < 0 {
                    Sight::WallBack
                } else {
                    Sight::WallForward
                });
                clocks::step_wall(ms);
            }
            Act::Disk(trouble, time) => {
                self.host.disk.faults.trouble(trouble, clocks::now() + time)
            }
        }
    }

    /// Starts a machine that is dead.
    fn start(&mut self, host: &str) {
        if !self.sim.is_host_running(host) {
            self.sim.bounce(host);
        }
    }

    fn crash(&mut self, host: &str) {
        lines::dying(|| self.sim.crash(host));
    }

    fn kill_worker(&mut self, i: usize, keeps: bool) {
        if self.sim.is_host_running(worker_name(i)) {
            self.witness.saw(Sight::WorkerDies);
            self.crash(&worker_name(i));
            self.workers[i].die(keeps);
            self.resume_worker(i);
        }
    }

    fn pause_worker(&mut self, i: usize) {
        if self.sim.is_host_running(worker_name(i)) {
            self.witness.saw(Sight::WorkerPauses);
            self.workers[i].pause();
            self.links.still.insert(worker_name(i));
            self.link(&worker_name(i));
        }
    }

    fn resume_worker(&mut self, i: usize) {
        self.workers[i].go_on();
        self.links.still.remove(&worker_name(i));
        self.link(&worker_name(i));
    }

    fn kill_coordinator(&mut self, torn: bool) {
        if !self.sim.is_host_running(coordinator::NAME) {
            return;
        }
        self.witness.saw(Sight::CoordinatorDies);
        self.crash(coordinator::NAME);
        if torn && self.host.tear_uploads() {
            self.witness.saw(Sight::UploadTorn);
        }
        self.resume_coordinator(false);
    }

    fn pause_coordinator(&mut self) {
        if !self.links.paused && self.sim.is_host_running(coordinator::NAME) {
            clocks::stand_still();
            self.links.paused = true;
            self.link_all();
        }
    }

    fn resume_coordinator(&mut self, slept: bool) {
        if self.links.paused {
            self.witness.saw(if slept {
                Sight::CoordinatorSleeps
            } else {
                Sight::CoordinatorPauses
            });
            clocks::go_on(slept);
            self.links.paused = false;
            self.link_all();
        }
    }

    /// Messages between a worker and the coordinator arrive.
    fn mend(&mut self, i: usize) {
        let name = worker_name(i);
        self.links.cut.remove(&name);
        self.links.held.remove(&name);
        self.link(&name);
    }

    fn link_all(&self) {
        let workers = self.workers.iter().chain(self.copies.values());
        for worker in workers {
            self.link(&worker.host);
        }
        self.link(person::HOST);
    }

    /// Makes the link between `host` and the coordinator what it is to be. Whoever stands still
    /// neither hears nor says anything; messages wait for it.
    fn link(&self, host: &str) {
        let Links {
            cut,
            held,
            still,
            paused,
        } = &self.links;
        if *paused || held.contains(host) || still.contains(host) {
            return self.sim.hold(host, coordinator::NAME);
        }
        self.sim.release(host, coordinator::NAME);
        match cut.get(host) {
            None => {}
            Some(Direction::Both) => self.sim.partition(host, coordinator::NAME),
            Some(Direction::ToCoordinator) => {
                self.sim.partition_oneway(host, coordinator::NAME);
            }
            Some(Direction::FromCoordinator) => {
                self.sim.partition_oneway(coordinator::NAME, host);
            }
        }
    }

    fn copy(&mut self, i: usize, stranger: bool) {
        if self.copies.contains_key(&i) {
            return;
        }
        let original = &self.workers[i];
        let copy = if stranger {
            self.witness.saw(Sight::FolderTaken);
            original.stranger(format!("stranger-{i}"))
        } else {
            self.witness.saw(Sight::FolderCopied);
            self.witness.copied(&original.worker);
            original.copy(format!("copy-{i}"))
        };
        let copy = Arc::new(copy);
        let own = copy.clone();
        self.sim
            .host(copy.host.clone(), move || worker::run(own.clone()));
        self.link(&copy.host);
        self.copies.insert(i, copy);
    }

    fn kill_copy(&mut self, i: usize) {
        if let Some(copy) = self.copies.get(&i).cloned()
            && self.sim.is_host_running(copy.host.clone())
        {
            self.witness.saw(Sight::CopyDies);
            self.crash(&copy.host);
            copy.die(false);
        }
    }

    /// From now on nothing is wrong.
    fn repair(&mut self) {
        self.witness.note("schedule", "everything is repaired");
        self.host.disk.faults.repair();
        self.resume_coordinator(false);
        for i in 0..self.schedule.workers {
            self.kill_copy(i);
            self.workers[i].deafen(Duration::ZERO);
            self.mend(i);
            self.resume_worker(i);
            self.start(&worker_name(i));
        }
        self.start(coordinator::NAME);
    }

    /// The job `open` has not ended, or a submission was never answered.
    fn is_late(&mut self, open: Option<u64>) -> turmoil::Result {
        let Some(open) = open else {
            self.witness
                .accuse("a submission was never answered".into());
            return Ok(());
        };
        drop(self.wishes.send(Wish::Explain(open)));
        self.run_until(self.sim.elapsed() + HELP)?;
        self.witness.accuse(format!("job {open} has not ended"));
        Ok(())
    }

    /// Every job ends, with a person who resumes and undrains what people have stopped.
    fn end(&mut self) -> turmoil::Result {
        let until = self.schedule.end + PATIENCE;
        loop {
            let next = self.sim.elapsed() + LOOK;
            self.run_until(next)?;
            let jobs = disk::jobs(&self.host.disk);
            let open = jobs.iter().find(|job| !job.state.is_final());
            let open = open.map(|job| job.id.0);
            let all_told = self.witness.answered() >= self.submissions;
            if self.witness.broken().is_some() || (open.is_none() && all_told) {
                return Ok(());
            }
            if next > until {
                return self.is_late(open);
            }
            if !is_time(next, HELP, LOOK) {
                continue;
            }
            for job in jobs {
                if matches!(job.state, JobState::Paused { .. }) {
                    drop(self.wishes.send(Wish::Resume(job.id.0)));
                }
            }
            for i in 0..self.schedule.workers {
                drop(self.wishes.send(Wish::Undrain(worker_name(i))));
            }
        }
    }
}

/// Whether a multiple of `every` is within the step of `tick` that ends at `now`.
fn is_time(now: Duration, every: Duration, tick: Duration) -> bool {
    now.as_millis() / every.as_millis() != (now - tick).as_millis() / every.as_millis()
}

fn network<'a>(seed: u64, tick: Duration) -> Sim<'a> {
    Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH)
        .tick_duration(tick)
        .simulation_duration(Duration::from_secs(100_000))
        .min_message_latency(LATENCY[0])
        .max_message_latency(LATENCY[1])
        .tcp_capacity(CAPACITY)
        .build()
}
