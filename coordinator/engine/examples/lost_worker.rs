//! A job whose worker is lost, and that goes on elsewhere from its checkpoint, told as the journal
//! tells it. Time is an argument: the story of 40 seconds is over at once.
//!
//! ```sh
//! cargo run --release -p qlora-engine --example lost_worker
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;

use qlora_engine::*;

struct Story {
    engine: Engine,
    seconds: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let seed = [7; 32];
    let mut story = Story {
        engine: Engine::new(Limits::default(), Vec::new(), Now::both(0), seed),
        seconds: 0,
    };
    let spec = Box::new(spec());
    story.tell(Event::Submit { spec });
    let (first, job, token) = story.join("first")?;
    story.seconds = 5;
    story.commit(first, token, ArtifactKind::Checkpoint, 100);

    // Nobody hears of the first worker for a whole lease.
    story.seconds = 36;
    story.tell(Event::Tick);
    let (second, _, token) = story.join("second")?;
    let saved = story.engine.job(job).and_then(|job| job.checkpoint());
    let step = saved.ok_or("the checkpoint is gone")?.step;
    println!("       the second worker resumes from step {step}");
    story.seconds = 40;
    story.commit(second, token, ArtifactKind::Adapter, 200);
    story.tell(Event::Finish {
        session: second,
        token,
        outcome: Outcome::Succeeded,
        message: String::new(),
        code: String::new(),
    });
    Ok(())
}

impl Story {
    /// Hands an event to the engine, and does what a driver would: here, print.
    fn tell(&mut self, event: Event) -> Response {
        let now = Now::both(self.seconds * 1000);
        let (response, effects) = self.engine.handle(now, event);
        for effect in effects {
            match effect {
                Effect::Record {
                    worker, kind, text, ..
                } => {
                    let worker = worker.map(|worker| format!(" ({worker})"));
                    let (at, what) = (self.seconds, kind.word());
                    println!("{at:4} s {what}{}: {text}", worker.unwrap_or_default());
                }
                Effect::Save(job) => println!("       store job {job}"),
                Effect::Remove(job) => println!("       delete job {job}"),
                Effect::RemoveRecords(job) => println!("       delete the records of job {job}"),
                Effect::SaveDrain { worker, .. } => {
                    println!("       store whether {worker} is drained")
                }
                Effect::Wake(_) => println!("       wake a worker that waits"),
                Effect::Release { digest, .. } => println!("       let {digest} go"),
            }
        }
        // Everything is durable: without this, `Engine::take_back` would undo it.
        self.engine.settled();
        response
    }

    /// A worker comes and asks for work.
    fn join(&mut self, name: &str) -> Result<(SessionId, JobId, Token), Box<dyn Error>> {
        let registered = self.tell(Event::Register {
            name: name.into(),
            instance: format!("the state folder of {name}"),
            previous: None,
            platform: Box::new(platform()),
            running: None,
        });
        let Response::Registered { session } = registered else {
            return Err(format!("not registered: {registered:?}").into());
        };
        let wanted = self.tell(Event::Synchronize {
            session,
            running: None,
            memory_free: None,
            disk_free: None,
            models: None,
            draining: false,
        });
        let Response::Wanted(Wanted::Run { job, token }) = wanted else {
            return Err(format!("no work: {wanted:?}").into());
        };
        Ok((session, job, token))
    }

    fn commit(&mut self, session: SessionId, token: Token, kind: ArtifactKind, step: u64) {
        let artifact = Artifact {
            kind,
            name: format!("{kind}-{step}"),
            digest: format!("SHA-256 of {kind} {step}"),
            size: 1 << 20,
            step,
        };
        self.tell(Event::Commit {
            session,
            token,
            artifact,
        });
    }
}

fn spec() -> JobSpec {
    JobSpec {
        kind: JobKind::Train,
        config_json: "{}".into(),
        config_hash: "SHA-256 of the configuration".into(),
        max_retries: 2,
        checkpoints_to_keep: 2,
        ..JobSpec::noop("story")
    }
}

fn platform() -> Platform {
    Platform {
        device: DeviceClass::Cpu,
        device_name: "a CPU".into(),
        device_memory: 8 << 30,
        device_memory_free: None,
        compute_capability: String::new(),
        driver: String::new(),
        cpu_model: String::new(),
        cpu_cores: 2,
        memory: 8 << 30,
        disk_free: None,
        bf16: false,
        flash_attention: false,
        os: "linux".into(),
        labels: BTreeMap::new(),
        version: String::new(),
        host: String::new(),
        device_id: String::new(),
        models: BTreeSet::new(),
    }
}
