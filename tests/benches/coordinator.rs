//! `cargo bench -p qlora-tests`: what the coordinator itself takes, with jobs that do nothing,
//! durable (SQLite, fsync).
//!
//! Workers speak the real protocol over loopback; no process is started for a job, so that the
//! figure is the coordinator's own. Prints dispatches a second, submit to start on an idle worker,
//! and the coordinator's memory.

use std::time::{Duration, Instant};

use qlora_client::Client;
use qlora_proto::synchronize_response::Wanted;
use qlora_proto::{
    DeviceClass, FinishRequest, JobKind, Outcome, Platform, RegisterRequest, SubmitRequest,
    SynchronizeRequest,
};
use qlora_tests::World;
use tokio::sync::mpsc;

const JOBS: usize = 5000;
const WORKERS: usize = 32;
const SUBMITTERS: usize = 32;
const SINGLE: usize = 500;

/// A worker that ends every job at once, and tells when each began.
async fn worker(mut client: Client, name: String, started: mpsc::UnboundedSender<Instant>) {
    let platform = Platform {
        device_class: DeviceClass::Cpu.into(),
        device_name: "none".into(),
        ..Platform::default()
    };
    let request = RegisterRequest {
        name: name.clone(),
        instance: name,
        platform: Some(platform),
        ..Default::default()
    };
    let session = client
        .workers
        .register(request)
        .await
        .expect("a session")
        .into_inner()
        .session;
    loop {
        let request = SynchronizeRequest {
            session,
            wait_ms: 10_000,
            ..SynchronizeRequest::default()
        };
        // The coordinator goes away at the end of the measurement.
        let Ok(answer) = client.workers.synchronize(request).await else {
            return;
        };
        let answer = answer.into_inner();
        if let Some(Wanted::Run(assignment)) = answer.wanted {
            if started.send(Instant::now()).is_err() {
                return;
            }
            let finish = FinishRequest {
                session,
                token: assignment.token,
                outcome: Outcome::Succeeded.into(),
                message: String::new(),
                code: String::new(),
            };
            if client.workers.finish(finish).await.is_err() {
                return;
            }
        }
    }
}

async fn submit(client: &mut Client) {
    let request = SubmitRequest {
        kind: JobKind::Noop.into(),
        name: "noop".into(),
        ..SubmitRequest::default()
    };
    client.jobs.submit(request).await.expect("a job");
}

fn memory(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok())
        .unwrap_or(0.0)
        / 1024.0
}

/// CPU seconds of a process.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // utime and stime are the 14th and 15th field; the state, a letter, is not among the parsed
    // ones.
    fields
        .get(10)
        .zip(fields.get(11))
        .map_or(0.0, |(user, system)| (user + system) / 100.0)
}

#[tokio::main]
async fn main() {
    let world = World::new(&[]);
    let client = || Client::new(&world.address, None).expect("a client");
    let pid = world.coordinator.pid();
    println!("memory at rest            {:.1} MiB", memory(pid));

    let (started, mut starts) = mpsc::unbounded_channel();
    tokio::spawn(worker(client(), "w0".into(), started.clone()));
    let mut one = client();
    let mut waits = Vec::with_capacity(SINGLE);
    for i in 0..=SINGLE {
        let begin = Instant::now();
        submit(&mut one).await;
        let wait = starts
            .recv()
            .await
            .expect("a start")
            .saturating_duration_since(begin);
        if i > 0 {
            waits.push(wait);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    println!(
        "submit to start, idle     p50 {:.2} ms, p99 {:.2} ms ({SINGLE} jobs one by one)",
        at(0.5),
        at(0.99)
    );

    for i in 1..WORKERS {
        tokio::spawn(worker(client(), format!("w{i}"), started.clone()));
    }
    let (before, begin) = (cpu(pid), Instant::now());
    for _ in 0..SUBMITTERS {
        let mut own = client();
        tokio::spawn(async move {
            for _ in 0..JOBS / SUBMITTERS {
                submit(&mut own).await;
            }
        });
    }
    let jobs = JOBS / SUBMITTERS * SUBMITTERS;
    for _ in 0..jobs {
        starts.recv().await.expect("a start");
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "dispatches                {:.0} a second ({jobs} jobs, {WORKERS} workers, {SUBMITTERS} submitters)",
        jobs as f64 / seconds
    );
    println!(
        "CPU time a job            {:.2} ms",
        (cpu(pid) - before) * 1000.0 / jobs as f64
    );
    println!("memory after              {:.1} MiB", memory(pid));
}
