//! Waits while a disk is full: that is no fault of the run, and what was trained is worth the wait.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use crate::report::{ControlSignal, Event, Phase, Reporter};
use crate::{Error, Result};

/// Wait before it is tried again.
pub(super) const WAIT: Duration = Duration::from_secs(15);
/// How often a wait looks whether the run is to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Does what writes to the disk, again and again while there is no room, and tells of it with the
/// path.
///
/// # Errors
/// Those of `write`; also that there is no room, where the run is to stop meanwhile.
pub(super) fn with_room(
    reporter: &mut dyn Reporter,
    (place, wait): (&Path, Duration),
    mut write: impl FnMut() -> Result<()>,
) -> Result<()> {
    let (place, mut has_waited) = (place.display().to_string(), false);
    loop {
        let full = match write() {
            Err(fault) if is_full_disk(&fault) => fault,
            ended => {
                if has_waited {
                    saving(reporter)?;
                }
                return ended;
            }
        };
        has_waited = true;
        let seconds = wait.as_secs();
        let text = format!(
            "no room on the worker's disk for {place}: {full}; trying again in {seconds} s"
        );
        let place = place.clone();
        reporter.report(Event::NoRoom { place, text })?;
        let mut waited = Duration::ZERO;
        while waited < wait {
            if reporter.control_signal() == ControlSignal::Stop {
                return Err(full);
            }
            std::thread::sleep(LOOK.min(wait));
            waited += LOOK;
        }
    }
}

/// There is room again.
fn saving(reporter: &mut dyn Reporter) -> Result<()> {
    reporter.report(Event::Phase {
        phase: Phase::Saving,
        done: 0,
        of: 0,
    })
}

fn is_full_disk(fault: &Error) -> bool {
    match fault {
        Error::Io { source, .. } => source.kind() == ErrorKind::StorageFull,
        // What writes tensors gives the system's words only.
        Error::Tensors(e) => e.to_string().contains("No space left on device"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Listener {
        notes: Vec<String>,
        phases: Vec<Phase>,
        stops: bool,
    }

    impl Reporter for Listener {
        fn report(&mut self, event: Event) -> Result<()> {
            match event {
                Event::NoRoom { place, text } if text.contains(&place) => self.notes.push(text),
                Event::Phase { phase, .. } => self.phases.push(phase),
                other => panic!("{other:?}"),
            }
            Ok(())
        }

        fn control_signal(&mut self) -> ControlSignal {
            if self.stops {
                ControlSignal::Stop
            } else {
                ControlSignal::Continue
            }
        }
    }

    fn full() -> Error {
        Error::Io {
            path: "elsewhere".into(),
            source: ErrorKind::StorageFull.into(),
        }
    }

    #[test]
    fn what_has_no_room_is_tried_until_it_has_and_told_with_its_path() {
        let (mut listener, mut tries) = (Listener::default(), 0);
        let done = with_room(
            &mut listener,
            (Path::new("/state/checkpoint"), Duration::from_millis(1)),
            || {
                tries += 1;
                if tries < 3 { Err(full()) } else { Ok(()) }
            },
        );
        assert!(done.is_ok() && tries == 3, "{done:?}");
        assert_eq!(listener.notes.len(), 2);
        assert_eq!(listener.phases, [Phase::Saving]);
        assert!(
            listener.notes[0].contains("/state/checkpoint"),
            "{:?}",
            listener.notes
        );
    }

    #[test]
    fn a_run_that_is_to_stop_waits_no_more_and_other_faults_are_not_waited_for() {
        let mut listener = Listener {
            stops: true,
            ..Listener::default()
        };
        assert!(with_room(&mut listener, (Path::new("x"), WAIT), || Err(full())).is_err());
        let mut tries = 0;
        let other = with_room(&mut listener, (Path::new("x"), WAIT), || {
            tries += 1;
            Err(Error::Stopped)
        });
        assert!(matches!(other, Err(Error::Stopped)) && tries == 1);
    }
}
