//! Ctrl-C, SIGTERM and SIGHUP while files are written that must not be left incomplete: the work
//! ends by itself and cleans up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use qlora_trainer::stop::StopSignal;
use tokio::runtime::Builder;
use tokio::signal::unix::SignalKind;

use crate::error::{INTERRUPTED, WorkerError};
use crate::signals::Signals;

/// Given from the first signal on; a second one ends the process at once.
///
/// # Errors
/// The system does not let the process hear signals.
pub fn listen() -> Result<StopSignal, WorkerError> {
    let runtime = Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(WorkerError::io("signals"))?;
    let mut signals = {
        let _within = runtime.enter();
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ];
        Signals::listen(&kinds).map_err(WorkerError::io("signals"))?
    };
    let given: Arc<AtomicBool> = Arc::default();
    let give = given.clone();
    std::thread::spawn(move || {
        runtime.block_on(signals.next());
        give.store(true, Ordering::Relaxed);
        runtime.block_on(signals.next());
        std::process::exit(INTERRUPTED.into());
    });
    Ok(StopSignal::new(move || given.load(Ordering::Relaxed)))
}
