//! Whether a job fits a worker, with the reason in words: what `qlora-ctl explain` prints.

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
        reason: readiness(worker),
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
        let there = w.name != first.name && w.connected && !w.draining;
        there && w.platform.device == first.platform.device && verdict(needs, w).fits
    })
}

/// Looks for those who take a job together with `first`, which fits and is free; workers on its
/// machine come before others.
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
    free.sort_by_key(|w| (w.platform.host != first.platform.host, &w.name));
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

fn readiness(worker: &Worker) -> String {
    match (worker.connected, worker.draining, worker.assigned) {
        (false, ..) => format!(
            "{} is suitable, but has not been heard of lately",
            worker.name
        ),
        (true, true, _) => format!("{} is suitable, but takes no new work", worker.name),
        (true, false, Some(_)) => format!("{} is suitable, but busy", worker.name),
        (true, false, None) => format!("{} is suitable and free", worker.name),
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
