//! Connected workers, each of which runs a job that makes a step a second.
//!
//! They report as a real worker does: steps gather for as long as the coordinator asks, and then
//! travel together. A step is due at its own second, whether or not the report before was answered.
//! Where the coordinator cannot keep up, steps become late, and the table says how many it never got.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use qlora_client::Client;
use qlora_client::waits::GATHER;
use qlora_proto::{MetricPoint, Progress, ReportRequest};
use qlora_tests::World;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::arguments::Fleet;
use crate::process::{cpu, hold, memory};
use crate::report::{Report, at};
use crate::worker::{Worker, submit};

/// Workers that come at one time.
const COMING: usize = 64;
/// Seconds between two lines of JSON.
const LINE: u64 = 10;

pub async fn run(wanted: Fleet, report: &mut Report) {
    hold(wanted.workers as u64 + 256);
    let world = World::new(&[]);
    let pid = world.coordinator.pid();
    report.row("memory at rest", memory(pid), "MiB");
    let (acknowledged, mut times) = mpsc::unbounded_channel();
    let begin = Instant::now();
    let failed = Arc::new(AtomicU64::new(0));
    let running = come(&world, wanted.workers).await;
    report.row("all have begun after", begin.elapsed().as_secs_f64(), "s");
    report.row("memory with all", memory(pid), "MiB");
    let begin = Instant::now();
    let until = begin + Duration::from_secs(wanted.seconds);
    for (i, (worker, token)) in running.into_iter().enumerate() {
        tokio::spawn(keep(worker.clone(), token, until));
        let first = begin + Duration::from_secs(1).mul_f64(i as f64 / wanted.workers as f64);
        let reporter = Reporter {
            worker,
            token,
            until,
            failed: failed.clone(),
            acknowledged: acknowledged.clone(),
        };
        tokio::spawn(reporter.run(first));
    }
    drop(acknowledged);
    measure(&wanted, pid, &mut times, report).await;
    report.row("reports that failed", failed.load(Relaxed) as f64, "");
}

/// Registers the workers and gives each a job.
async fn come(world: &World, workers: usize) -> Vec<(Worker, u64)> {
    let door = Arc::new(Semaphore::new(COMING));
    let mut tasks = Vec::with_capacity(workers);
    for i in 0..workers {
        let client = Client::new(&world.address, None).expect("a client");
        let door = door.clone();
        tasks.push(tokio::spawn(async move {
            let _place = door.acquire().await.expect("a place");
            let mut worker = Worker::register(client, format!("w{i}")).await;
            submit(&mut worker.client).await;
            let assignment = worker.next().await.expect("a job");
            (worker, assignment.token)
        }));
    }
    let mut running = Vec::with_capacity(workers);
    for task in tasks {
        running.push(task.await.expect("a worker that runs a job"));
    }
    running
}

/// Renews the lease, as a worker does beside its reports.
async fn keep(mut worker: Worker, token: u64, until: Instant) {
    while Instant::now() < until && worker.synchronize(token).await.is_some() {}
}

/// One worker's reports.
struct Reporter {
    worker: Worker,
    token: u64,
    until: Instant,
    failed: Arc<AtomicU64>,
    /// How late each step arrived.
    acknowledged: mpsc::UnboundedSender<Duration>,
}

impl Reporter {
    /// Makes the first step at `first`.
    async fn run(mut self, first: Instant) {
        let due = |step: u64| first + Duration::from_secs(step - 1);
        let (mut next, mut gather) = (1, GATHER);
        for batch in 1.. {
            if due(next) >= self.until {
                break;
            }
            tokio::time::sleep_until((due(next) + gather).into()).await;
            let by = Instant::now().min(self.until);
            let steps: Vec<u64> = (next..).take_while(|&step| due(step) < by).collect();
            next += steps.len() as u64;
            let request = request(self.worker.session, self.token, batch, &steps);
            match self.worker.client.workers.report(request).await {
                Ok(answer) => {
                    let asked = Duration::from_millis(answer.into_inner().gather_ms.into());
                    gather = asked.max(GATHER);
                    for step in steps {
                        let _ = self.acknowledged.send(due(step).elapsed());
                    }
                }
                Err(_) => drop(self.failed.fetch_add(1, Relaxed)),
            }
        }
        self.worker.finish(self.token).await;
    }
}

fn request(session: u64, token: u64, batch: u64, steps: &[u64]) -> ReportRequest {
    let loss = |step: u64| 2.0 / (step as f64).sqrt();
    let point = |&step: &u64| {
        let values = [
            ("loss", loss(step)),
            ("learning_rate", 2e-4),
            ("grad_norm", 0.7),
        ];
        MetricPoint {
            seq: 0,
            step,
            unix_ms: 0,
            values: values.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    };
    let newest = steps.last().copied().unwrap_or(1);
    let progress = Progress {
        phase: "training".into(),
        step: newest,
        steps: 1_000_000,
        loss: Some(loss(newest)),
        tokens_per_second: Some(900.0),
        ..Progress::default()
    };
    ReportRequest {
        session,
        token,
        batch,
        metrics: steps.iter().map(point).collect(),
        logs: Vec::new(),
        progress: Some(progress),
    }
}

/// Takes the times of steps until all reporters have ended.
async fn measure(
    wanted: &Fleet,
    pid: u32,
    times: &mut mpsc::UnboundedReceiver<Duration>,
    report: &mut Report,
) {
    let mut all: Vec<Vec<Duration>> = Vec::new();
    let mut stretch = Vec::new();
    let (mut most, begin, before) = (0.0f64, Instant::now(), cpu(pid));
    let mut next = Duration::from_secs(LINE);
    loop {
        let line = tokio::time::sleep_until((begin + next).into());
        tokio::select! {
            biased;
            time = times.recv() => match time {
                Some(time) => {
                    stretch.push(time);
                    if begin.elapsed() < next {
                        continue;
                    }
                }
                None => break,
            },
            () = line => {}
        }
        most = most.max(memory(pid));
        tell(report, next, &mut stretch, memory(pid));
        all.push(std::mem::take(&mut stretch));
        next += Duration::from_secs(LINE);
    }
    all.push(stretch);
    all.retain(|stretch| !stretch.is_empty());
    let made: usize = all.iter().map(Vec::len).sum();
    let due = wanted.workers as f64 * wanted.seconds as f64;
    report.row("steps acknowledged", made as f64, "");
    report.row("steps that never arrived", (due - made as f64).max(0.0), "");
    let seconds = begin.elapsed().as_secs_f64();
    let took = cpu(pid) - before;
    report.row("CPU", took / seconds, "cores");
    report.row("CPU time a step", took * 1000.0 / made.max(1) as f64, "ms");
    report.row("memory, most", most.max(memory(pid)), "MiB");
    // A queue that grows shows as a last stretch that is slower than the first.
    if let Some(first) = all.first_mut() {
        report.percentiles("a step, first 10 s", first);
    }
    if let Some(last) = all.last_mut() {
        report.percentiles("a step, last 10 s", last);
    }
}

fn tell(report: &Report, second: Duration, stretch: &mut [Duration], memory: f64) {
    stretch.sort_unstable();
    report.line(&json!({
        "second": second.as_secs(),
        "steps": stretch.len(),
        "p50_ms": at(stretch, 0.5),
        "p99_ms": at(stretch, 0.99),
        "memory_mib": memory,
    }));
}
