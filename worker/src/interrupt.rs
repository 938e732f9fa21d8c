//! Ctrl-C and SIGTERM while files are written that must not be left half: the work ends by itself, and clears up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qlora_trainer::stop::StopSignal;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::WorkerError;

/// What a command ends with that a signal has ended.
pub const EXIT_CODE: u8 = 130;

/// Given from the first signal on; a second one ends the process at once.
///
/// # Errors
/// The system does not let the process hear signals.
pub fn listen() -> Result<StopSignal, WorkerError> {
    let runtime = Builder::new_current_thread().enable_io().build().map_err(WorkerError::io("signals"))?;
    let mut signals = {
        let _within = runtime.enter();
        Signals::listen().map_err(WorkerError::io("signals"))?
    };
    let given: Arc<AtomicBool> = Arc::default();
    let give = given.clone();
    std::thread::spawn(move || {
        runtime.block_on(signals.next());
        give.store(true, Ordering::Relaxed);
        runtime.block_on(signals.next());
        std::process::exit(EXIT_CODE.into());
    });
    Ok(StopSignal::new(move || given.load(Ordering::Relaxed)))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {},
            _ = self.terminate.recv() => {},
            _ = self.hangup.recv() => {},
        }
    }
}
