//! Whether a job fits a worker, with the reason in words: what `qlora-ctl explain` prints. Among
//! workers that fit, those come first that have the job's base model.

use crate::worker::{DeviceClass, Needs, Worker};

/// Whether one worker can take a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub fits: bool,
    /// Why not; or what stands between the job and its start.
    pub reason: String,
}

/// What keeps a job from a worker.
enum Obstacle<'a> {
    SetAside(String),
    Device(DeviceClass),
    FlashAttention,
    /// The label's name, what it has to be, and what it is.
    Label(&'a str, &'a str, Option<&'a str>),
    /// Bytes that are needed, and those that may be used.
    Memory(u64, u64),
    HostMemory,
}

/// Whether `worker` can take a job, by what it is and not by whether it is busy: as [`verdict`] says,
/// without the words. Placement asks it of many workers.
pub fn fits(needs: &Needs, worker: &Worker) -> bool {
    obstacle(needs, worker).is_none()
}

/// Judges `worker` by what it is, not by whether it is busy.
pub fn verdict(needs: &Needs, worker: &Worker) -> Verdict {
    match obstacle(needs, worker) {
        Some(obstacle) => Verdict {
            fits: false,
            reason: obstacle.reason(needs, worker),
        },
        None => Verdict {
            fits: true,
            reason: readiness(needs, worker),
        },
    }
}

fn obstacle<'a>(needs: &'a Needs, worker: &'a Worker) -> Option<Obstacle<'a>> {
    let platform = &worker.platform;
    if let Some(reason) = worker.set_aside() {
        return Some(Obstacle::SetAside(reason));
    }
    if let Some(device) = needs.device.filter(|&d| d != platform.device) {
        return Some(Obstacle::Device(device));
    }
    if needs.flash_attention && !platform.flash_attention {
        return Some(Obstacle::FlashAttention);
    }
    for (key, wanted) in &needs.labels {
        let found = platform.labels.get(key);
        if found != Some(wanted) {
            return Some(Obstacle::Label(key, wanted, found.map(String::as_str)));
        }
    }
    if let Some(&bytes) = needs.memory.get(&platform.device) {
        let usable = (platform.device_memory as f64 * needs.memory_fraction.unwrap_or(1.0)) as u64;
        if bytes > usable {
            return Some(Obstacle::Memory(bytes, usable));
        }
    }
    let is_short = platform.device == DeviceClass::Cuda && needs.host_memory > platform.memory;
    is_short.then_some(Obstacle::HostMemory)
}

impl Obstacle<'_> {
    fn reason(self, needs: &Needs, worker: &Worker) -> String {
        let name = &worker.name;
        match self {
            Self::SetAside(reason) => reason,
            Self::Device(device) => format!(
                "needs a {} device, {name} has {}",
                device.word(),
                worker.platform.device.word()
            ),
            Self::FlashAttention => format!("needs flash attention, {name} has none"),
            Self::Label(key, wanted, Some(found)) => {
                format!("needs label {key}={wanted}, {name} has {key}={found}")
            }
            Self::Label(key, wanted, None) => {
                format!("needs label {key}={wanted}, {name} does not carry {key}")
            }
            Self::Memory(bytes, usable) => does_not_fit(bytes, usable, needs, worker),
            Self::HostMemory => {
                let (wanted, there) = (gib(needs.host_memory), gib(worker.platform.memory));
                format!(
                    "needs {wanted:.1} GiB of host memory beside its GPU, {name} has {there:.1}"
                )
            }
        }
    }
}

/// Whether a worker that is free finds others to train a job with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProcessGroup {
    /// These are free too; they get the ranks from 1 on.
    Complete(Vec<String>),
    /// Enough workers fit, but too few of them are free.
    Busy,
    /// Too few workers fit.
    TooSmall,
}

/// Who could take a job together with `first`, which fits: workers of its class that fit as well,
/// busy or not.
pub(crate) fn candidates<'a>(
    needs: &Needs,
    first: &Worker,
    all: impl Iterator<Item = &'a Worker>,
) -> impl Iterator<Item = &'a Worker> {
    all.filter(|w| {
        let there = w.name != first.name && w.connected && w.takes_work();
        there && w.platform.device == first.platform.device && fits(needs, w)
    })
}

/// Looks for those who take a job together with `first`, which fits and is free; workers on its
/// machine come before others, and then those that have the model.
pub(crate) fn process_group<'a>(
    needs: &Needs,
    first: &Worker,
    all: impl Iterator<Item = &'a Worker>,
) -> ProcessGroup {
    let wanted = needs.workers.saturating_sub(1);
    let fitting: Vec<&Worker> = if wanted == 0 {
        Vec::new()
    } else {
        candidates(needs, first, all).collect()
    };
    if fitting.len() < wanted {
        return ProcessGroup::TooSmall;
    }
    let mut free: Vec<&Worker> = fitting.into_iter().filter(|w| w.is_free()).collect();
    if free.len() < wanted {
        return ProcessGroup::Busy;
    }
    free.sort_by_key(|w| {
        let is_far = w.platform.host != first.platform.host;
        (is_far, !w.has_model_for(needs), &w.name)
    });
    ProcessGroup::Complete(
        free.into_iter()
            .take(wanted)
            .map(|w| w.name.clone())
            .collect(),
    )
}

fn does_not_fit(bytes: u64, usable: u64, needs: &Needs, worker: &Worker) -> String {
    let text = format!(
        "needs {:.1} GiB, {} may use {:.1}",
        gib(bytes),
        worker.name,
        gib(usable)
    );
    match needs
        .advice
        .get(&worker.platform.device)
        .filter(|a| !a.is_empty())
    {
        Some(advice) => format!("{text}; {advice}"),
        None => text,
    }
}

/// Those that have the model of a job with these `needs`, and then the others.
pub(crate) fn by_preference<'a>(
    needs: &'a Needs,
    workers: impl Iterator<Item = &'a Worker> + Clone,
) -> impl Iterator<Item = &'a Worker> {
    let others = workers.clone().filter(move |w| !w.has_model_for(needs));
    // A job that names no model prefers nobody: to ask all of them would be in vain.
    let preferred = needs.model.is_some().then_some(workers);
    preferred
        .into_iter()
        .flatten()
        .filter(move |w| w.has_model_for(needs))
        .chain(others)
}

/// The beginning of what is said of `worker`, which fits.
pub fn suitable(needs: &Needs, worker: &Worker) -> String {
    if worker.has_model_for(needs) {
        format!("{} is suitable and has the model", worker.name)
    } else {
        format!("{} is suitable", worker.name)
    }
}

fn readiness(needs: &Needs, worker: &Worker) -> String {
    let but = match (worker.connected, &worker.drained, worker.assigned) {
        (false, ..) => "has not been heard of lately".to_owned(),
        (true, Some(drain), _) => format!("was drained: {}", drain.reason),
        (true, None, _) if worker.draining => "takes no new work".to_owned(),
        (true, None, Some(_)) => "busy".to_owned(),
        (true, None, None) if worker.has_model_for(needs) => {
            return format!("{} is suitable, has the model and is free", worker.name);
        }
        (true, None, None) => return format!("{} is suitable and free", worker.name),
    };
    format!("{}, but {but}", suitable(needs, worker))
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
