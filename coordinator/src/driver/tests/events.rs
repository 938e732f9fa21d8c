//! What submitters and workers say, with nothing in it that a test does not ask for.

use std::collections::{BTreeMap, BTreeSet};

use qlora_engine::{
    Artifact, ArtifactKind, DeviceClass, Event, JobSpec, Outcome, Platform, Progress, SessionId,
    Token,
};

pub fn submit(name: &str, key: Option<&str>) -> Event {
    let spec = JobSpec {
        idempotency_key: key.map(str::to_owned),
        ..JobSpec::noop(name)
    };
    Event::Submit {
        spec: Box::new(spec),
    }
}

pub fn register(name: &str) -> Event {
    let platform = Platform {
        device: DeviceClass::Cpu,
        device_name: "a device".into(),
        device_memory: 1,
        device_memory_free: None,
        compute_capability: String::new(),
        driver: String::new(),
        cpu_model: String::new(),
        cpu_cores: 1,
        memory: 1,
        disk_free: None,
        bf16: false,
        flash_attention: false,
        os: String::new(),
        labels: BTreeMap::new(),
        version: String::new(),
        host: String::new(),
        device_id: String::new(),
        models: BTreeSet::new(),
    };
    Event::Register {
        name: name.into(),
        instance: name.into(),
        previous: None,
        platform: Box::new(platform),
        running: None,
    }
}

pub fn sync(session: SessionId, running: Option<Token>) -> Event {
    Event::Synchronize {
        session,
        running,
        memory_free: None,
        disk_free: None,
        models: None,
        draining: false,
    }
}

pub fn finish(session: SessionId, token: Token) -> Event {
    Event::Finish {
        session,
        token,
        outcome: Outcome::Succeeded,
        message: String::new(),
        code: String::new(),
    }
}

pub fn report(session: SessionId, token: Token, batch: u64) -> Event {
    let progress = Progress {
        step: batch,
        loss: Some(f64::NAN),
        ..Progress::default()
    };
    Event::Report {
        session,
        token,
        batch,
        progress: Some(Box::new(progress)),
    }
}

pub fn checkpoint(session: SessionId, token: Token, step: u64) -> Event {
    let artifact = Artifact {
        kind: ArtifactKind::Checkpoint,
        name: "c".into(),
        digest: "d".into(),
        size: 1,
        step,
    };
    Event::Commit {
        session,
        token,
        artifact,
    }
}
