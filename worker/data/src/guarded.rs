//! Keeps a panic of a library within the file that it read: some libraries panic at files that
//! contradict themselves, where they could refuse them.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::sync::Once;

thread_local! {
    /// Whether a panic of this thread becomes a fault, which tells all that the panic would.
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What `read` gives, or what a library said as it panicked; stderr hears nothing of it. What `read`
/// was reading with must not be used any more then.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    keep_quiet();
    let before = IS_GUARDED.replace(true);
    let given = catch_unwind(AssertUnwindSafe(read));
    IS_GUARDED.set(before);
    given.map_err(|said| {
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied());
        format!(
            "it contradicts itself: {}",
            text.unwrap_or("no reason is known")
        )
    })
}

/// Hands panics on to whatever tells of them now, but for those that become faults. It is installed
/// once for the process, and other threads are told of as before.
fn keep_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let tell = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_GUARDED.get() {
                tell(panic);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_that_tells_its_reason() {
        assert_eq!(guarded(|| 3), Ok(3));
        let (length, text) = (-1, "no length");
        for panics in [
            guarded(|| assert!(length > 0, "no length")),
            guarded(|| assert!(length > 0, "{text}")),
        ] {
            assert_eq!(panics, Err("it contradicts itself: no length".into()));
        }
        let other = catch_unwind(|| assert!(length > 0, "of another"));
        assert!(other.is_err());
    }

    #[test]
    fn stderr_hears_of_other_panics_alone() {
        let test = "a_panic_becomes_a_fault_that_tells_its_reason";
        let name = format!("guarded::tests::{test}");
        let program = std::env::current_exe().expect("this program");
        let run = std::process::Command::new(program)
            .args(["--exact", &name, "--nocapture"])
            .output()
            .expect("the test runs");
        let told = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{told}");
        assert!(told.contains("of another"), "{told}");
        assert!(!told.contains("no length"), "{told}");
    }
}
