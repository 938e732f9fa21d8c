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

impl Verdict {
    fn no(reason: String) -> Self {
        Self {
            fits: false,
            reason,
        }
    }
}

/// Judges `worker` by what it is, not by whether it is busy.
pub fn verdict(needs: &Needs, worker: &Worker) -> Verdict {
    let platform = &worker.platform;
    if let Some(reason) = worker.set_aside() {
        return Verdict::no(reason);
    }
    if let Some(device) = needs.device.filter(|&d| d != platform.device) {
        return Verdict::no(format!(
            "needs a {} device, {} has {}",
            device.word(),
            worker.name,
            platform.device.word()
        ));
    }
    if needs.flash_attention && !platform.flash_attention {
        return Verdict::no(format!("needs flash attention, {} has none", worker.name));
    }
    for (key, wanted) in &needs.labels {
        match platform.labels.get(key) {
            Some(found) if found == wanted => {}
            Some(found) => {
                return Verdict::no(format!(
                    "needs label {key}={wanted}, {} has {key}={found}",
                    worker.name
                ));
            }
            None => {
                return Verdict::no(format!(
                    "needs label {key}={wanted}, {} does not carry {key}",
                    worker.name
                ));
            }
        }
    }
    if let Some(&bytes) = needs.memory.get(&platform.device) {
        let usable = (platform.device_memory as f64 * needs.memory_fraction.unwrap_or(1.0)) as u64;
        if bytes > usable {
            return Verdict::no(does_not_fit(bytes, usable, needs, worker));
        }
    }
    if platform.device == DeviceClass::Cuda && needs.host_memory > platform.memory {
        let (wanted, there) = (gib(needs.host_memory), gib(platform.memory));
        return Verdict::no(format!(
            "needs {wanted:.1} GiB of host memory beside its GPU, {} has {there:.1}",
            worker.name
        ));
    }
    Verdict {
        fits: true,
        reason: readiness(needs, worker),
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
        there && w.platform.device == first.platform.device && verdict(needs, w).fits
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
    workers
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
