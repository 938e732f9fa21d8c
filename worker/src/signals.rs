//! The signals that end a command.
//!
//! A signal that is ignored when the program starts stays ignored. `nohup` relies on that, and so
//! does a shell without job control, which protects its background programs from Ctrl-C.

use std::future::poll_fn;
use std::io::{self, IsTerminal};
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub struct Signals(Vec<Signal>);

impl Signals {
    /// Hears those of `kinds` that are not ignored.
    ///
    /// # Errors
    /// The system does not let the process hear signals.
    pub fn listen(kinds: &[SignalKind]) -> io::Result<Self> {
        // To listen puts a handler in the place of what says that a signal is ignored, so that is
        // read before.
        let ignored = ignored();
        let heard = kinds.iter().filter(|kind| is_heard(**kind, ignored));
        heard
            .map(|kind| signal(*kind))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    pub async fn next(&mut self) {
        poll_fn(|context| {
            let is_given = self
                .0
                .iter_mut()
                .any(|signal| signal.poll_recv(context).is_ready());
            if is_given {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// The signals that this process ignores, the first in the lowest bit; none where the system does
/// not say, as only Linux does without unsafe code.
fn ignored() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

fn is_heard(kind: SignalKind, ignored: Option<u64>) -> bool {
    match ignored {
        Some(mask) => mask & (1 << (kind.as_raw_value() - 1)) == 0,
        // `nohup` takes both of these off the terminal, so where one is on it, it did not start
        // this. It may leave stdin.
        None if kind == SignalKind::hangup() => {
            io::stdout().is_terminal() || io::stderr().is_terminal()
        }
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_not_heard() {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::terminate(),
        ];
        let heard = |ignored| kinds.map(|kind| is_heard(kind, ignored));
        assert_eq!(heard(Some(0)), [true; 3]);
        assert_eq!(heard(Some(0x1)), [false, true, true]);
        assert_eq!(heard(Some(0x4002)), [true, false, false]);
        assert_eq!(heard(None)[1..], [true; 2]);
    }
}
