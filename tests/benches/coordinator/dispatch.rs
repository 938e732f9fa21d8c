//! Jobs that do nothing, durable (SQLite, fsync): one by one on an idle worker, and as many as pass.

use std::time::{Duration, Instant};

use qlora_client::Client;
use qlora_tests::World;
use tokio::sync::mpsc;

use crate::arguments::Dispatch;
use crate::process::{cpu, memory};
use crate::report::Report;
use crate::worker::{Worker, submit};

pub async fn run(wanted: Dispatch, report: &mut Report) {
    let world = World::new(&[]);
    let pid = world.coordinator.pid();
    report.row("memory at rest", memory(pid), "MiB");
    let (started, mut starts) = mpsc::unbounded_channel();
    tokio::spawn(work(client(&world), "w0".into(), started.clone()));
    let mut one = client(&world);
    let mut waits = one_by_one(&mut one, wanted.single, &mut starts).await;
    report.percentiles("submit to start, idle", &mut waits);
    for i in 1..wanted.workers {
        tokio::spawn(work(client(&world), format!("w{i}"), started.clone()));
    }
    let (before, begin) = (cpu(pid), Instant::now());
    let each = (wanted.jobs / wanted.submitters).max(1);
    for _ in 0..wanted.submitters {
        let mut own = client(&world);
        tokio::spawn(async move {
            for _ in 0..each {
                submit(&mut own).await;
            }
        });
    }
    let jobs = each * wanted.submitters;
    for _ in 0..jobs {
        starts.recv().await.expect("a start");
    }
    let seconds = begin.elapsed().as_secs_f64();
    report.row("dispatches", jobs as f64 / seconds, "a second");
    let took = (cpu(pid) - before) * 1000.0 / jobs as f64;
    report.row("CPU time a job", took, "ms");
    report.row("memory after", memory(pid), "MiB");
}

fn client(world: &World) -> Client {
    Client::new(&world.address, None).expect("a client")
}

/// Ends every job at once, and tells when each began.
async fn work(client: Client, name: String, started: mpsc::UnboundedSender<Instant>) {
    let mut worker = Worker::register(client, name).await;
    // The coordinator goes away at the end of the measurement.
    while let Some(assignment) = worker.next().await {
        if started.send(Instant::now()).is_err() || !worker.finish(assignment.token).await {
            return;
        }
    }
}

/// From each submission to its start.
async fn one_by_one(
    client: &mut Client,
    jobs: usize,
    starts: &mut mpsc::UnboundedReceiver<Instant>,
) -> Vec<Duration> {
    let mut waits = Vec::with_capacity(jobs);
    for i in 0..=jobs {
        let begin = Instant::now();
        submit(client).await;
        let start = starts.recv().await.expect("a start");
        // The first one also makes the connection.
        if i > 0 {
            waits.push(start.saturating_duration_since(begin));
        }
        // The worker is idle only once its next call is held.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    waits
}
