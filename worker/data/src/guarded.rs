//! Keeps a panic of a library within the file that it read: some libraries panic at files that
//! contradict themselves, where they could refuse them.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// What `read` gives, or what a library said as it panicked. What `read` was reading with must not
/// be used any more then.
pub(crate) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|said| {
        let text = said.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| said.downcast_ref::<&str>().copied());
        format!(
            "it contradicts itself: {}",
            text.unwrap_or("no reason is known")
        )
    })
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
    }
}
