//! Jobs that start a process each, which notes when it began: what other schedulers can be measured
//! with too. `beside.py` runs this and HyperQueue in turn.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Blocking;
use std::time::{Duration, Instant, SystemTime};

use qlora_client::Client;
use qlora_tests::World;
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::arguments::Stamp;
use crate::process::{cpu, memory};
use crate::report::Report;
use crate::worker::{Worker, submit};

/// The program that a job starts, and the file that it writes to.
#[derive(Clone)]
struct Program {
    path: PathBuf,
    stamps: PathBuf,
}

pub async fn run(wanted: Stamp, report: &mut Report) {
    let world = World::new(&[]);
    let pid = world.coordinator.pid();
    let program = Program::build(&world);
    let (ended, mut ends) = mpsc::unbounded_channel();
    let client = || Client::new(&world.address, None).expect("a client");
    for i in 0..wanted.workers {
        tokio::spawn(work(client(), i, program.clone(), ended.clone()));
    }
    let mut waits = one_by_one(&mut client(), wanted.single, &program, &mut ends).await;
    report.percentiles("submit to start of a process, idle", &mut waits);
    let (before, begin) = (cpu(pid), Instant::now());
    let each = (wanted.jobs / wanted.submitters).max(1);
    for _ in 0..wanted.submitters {
        let mut own = client();
        tokio::spawn(async move {
            for _ in 0..each {
                submit(&mut own).await;
            }
        });
    }
    let jobs = each * wanted.submitters;
    for _ in 0..jobs {
        ends.recv().await.expect("an end");
    }
    report.row(
        "jobs",
        jobs as f64 / begin.elapsed().as_secs_f64(),
        "a second",
    );
    let took = (cpu(pid) - before) * 1000.0 / jobs as f64;
    report.row("CPU time of the coordinator a job", took, "ms");
    report.row("memory of the coordinator", memory(pid), "MiB");
}

impl Program {
    fn build(world: &World) -> Self {
        let (source, path) = (world.path("stamp.c"), world.path("stamp"));
        fs::write(&source, include_str!("stamp.c")).expect("a source");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Blocking::new(compiler)
            .args(["-O2", "-static", "-o"])
            .args([&path, &source])
            .status();
        assert!(built.expect("a C compiler").success(), "no program");
        let stamps = world.path("stamps");
        Self { path, stamps }
    }

    /// Runs it to its end.
    async fn run(&self, job: u64) {
        let mut command = Command::new(&self.path);
        command.arg(&self.stamps).arg(job.to_string());
        let status = command.status().await.expect("a process");
        assert!(status.success(), "{status}");
    }
}

/// Starts a process for every job, and tells when it has ended.
async fn work(client: Client, number: usize, program: Program, ended: mpsc::UnboundedSender<()>) {
    let mut worker = Worker::register(client, format!("w{number}")).await;
    while let Some(assignment) = worker.next().await {
        program.run(assignment.job).await;
        if ended.send(()).is_err() || !worker.finish(assignment.token).await {
            return;
        }
    }
}

/// From each submission to the first thing that its process did.
async fn one_by_one(
    client: &mut Client,
    jobs: usize,
    program: &Program,
    ends: &mut mpsc::UnboundedReceiver<()>,
) -> Vec<Duration> {
    let mut submitted = HashMap::new();
    for i in 0..=jobs {
        let begin = SystemTime::now();
        let job = submit(client).await;
        ends.recv().await.expect("an end");
        // The first one also makes the connection.
        if i > 0 {
            submitted.insert(job, begin);
        }
        // The worker is idle only once its next call is held.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let started = stamps(&program.stamps);
    let wait = |(job, begin): (&u64, &SystemTime)| {
        let start = started.get(job).expect("the start of a job");
        start.duration_since(*begin).unwrap_or_default()
    };
    submitted.iter().map(wait).collect()
}

/// When each job began, by what its process wrote.
fn stamps(file: &Path) -> HashMap<u64, SystemTime> {
    let text = fs::read_to_string(file).expect("what the processes wrote");
    let stamp = |line: &str| {
        let (at, job) = line.split_once(' ').expect("a time and a job");
        let at = Duration::from_nanos(at.parse().expect("nanoseconds"));
        (job.parse().expect("a job"), SystemTime::UNIX_EPOCH + at)
    };
    text.lines().map(stamp).collect()
}
