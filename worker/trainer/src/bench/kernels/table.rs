//! The timer, and the table that its rows go to.

use std::time::Instant;

use candle_core::Device;
use serde::Serialize;

use crate::Result;

/// Seconds of runs between two synchronizations: launches are queued ahead, so their latency does
/// not count.
const SLICE: f64 = 0.004;
/// Slices at the most, whose median counts, and seconds after which no further one begins.
const SLICES: usize = 5;
const LONGEST: f64 = 1.0;
/// Runs that are queued at the most.
const QUEUED: f64 = 100.0;

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    pub name: String,
    /// Median, of one run.
    pub milliseconds: f64,
    /// FLOPs or bytes of one run, by what limits the operation.
    pub work: f64,
    /// FLOPs or bytes a second.
    pub rate: f64,
    pub unit: &'static str,
    /// The rate over that of a large product or a large copy in this process.
    pub share: f64,
    /// Runs of the operation in one step.
    pub calls: usize,
    /// Milliseconds of all its runs in one step.
    pub step_milliseconds: f64,
}

/// What limits an operation, and how much of it one run needs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Work {
    Flops(f64),
    /// Read and written.
    Bytes(f64),
}

impl Work {
    fn amount(self) -> f64 {
        match self {
            Self::Flops(amount) | Self::Bytes(amount) => amount,
        }
    }
}

/// Where an operation stands in the table: in the order of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Ceiling,
    Load,
    Embedding,
    Norm,
    Heads,
    Rotary,
    Attention,
    Output,
    Residual,
    Gates,
    Gated,
    Down,
    Loss,
    LossKernel,
    LossBackward,
    DownBackward,
    GatedBackward,
    GatesBackward,
    NormBackward,
    OutputBackward,
    AttentionBackward,
    RotaryBackward,
    HeadsBackward,
    Update,
}

/// Seconds of one run of `run` on `device`: the median of several slices, after a run that is not
/// timed.
pub(super) fn seconds<T>(device: &Device, mut run: impl FnMut() -> Result<T>) -> Result<f64> {
    let mut slice = |runs: usize| -> Result<f64> {
        let start = Instant::now();
        for _ in 0..runs {
            run()?;
        }
        device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / runs as f64)
    };
    // The first run loads kernels and makes plans, the second says how many fill a slice.
    slice(1)?;
    let runs = (SLICE / slice(1)?.max(1e-9)).clamp(1.0, QUEUED) as usize;
    let begin = Instant::now();
    let mut slices = Vec::with_capacity(SLICES);
    while slices.is_empty() || slices.len() < SLICES && begin.elapsed().as_secs_f64() < LONGEST {
        slices.push(slice(runs)?);
    }
    slices.sort_by(f64::total_cmp);
    // A clock may stand still over one short run; nothing takes no time.
    Ok(slices[slices.len() / 2].max(1e-9))
}

/// Rows, and the rates that their shares are of.
pub(super) struct Table<'a> {
    device: &'a Device,
    flops: f64,
    bytes: f64,
    rows: Vec<(Place, Timing)>,
}

impl<'a> Table<'a> {
    pub(super) fn new(device: &'a Device) -> Self {
        Self {
            device,
            flops: f64::NAN,
            bytes: f64::NAN,
            rows: Vec::new(),
        }
    }

    /// Times `run`, of which a step has `calls`.
    pub(super) fn add<T>(
        &mut self,
        place: Place,
        name: impl Into<String>,
        work: Work,
        calls: usize,
        run: impl FnMut() -> Result<T>,
    ) -> Result<()> {
        let seconds = seconds(self.device, run)?;
        self.put(place, name, work, calls, seconds);
        Ok(())
    }

    /// Adds an operation that takes `seconds`.
    pub(super) fn put(
        &mut self,
        place: Place,
        name: impl Into<String>,
        work: Work,
        calls: usize,
        seconds: f64,
    ) {
        let rate = work.amount() / seconds;
        let (unit, ceiling) = match work {
            Work::Flops(_) => ("FLOP/s", &mut self.flops),
            Work::Bytes(_) => ("B/s", &mut self.bytes),
        };
        if place == Place::Ceiling {
            *ceiling = rate;
        }
        let (share, milliseconds) = (rate / *ceiling, seconds * 1e3);
        let step_milliseconds = milliseconds * calls as f64;
        let (name, work) = (name.into(), work.amount());
        self.rows.push((
            place,
            Timing {
                name,
                milliseconds,
                work,
                rate,
                unit,
                share,
                calls,
                step_milliseconds,
            },
        ));
    }

    /// All rows in the order of the step.
    pub(super) fn rows(mut self) -> Vec<Timing> {
        self.rows.sort_by_key(|(place, _)| *place);
        self.rows.into_iter().map(|(_, timing)| timing).collect()
    }
}
