//! Counts the panics of tasks of this thread: those that nobody waits for would pass unseen.

use std::cell::Cell;
use std::panic;
use std::sync::Once;

thread_local! {
    static COUNTED: Cell<usize> = const { Cell::new(0) };
}

/// Begins to count, and tells of each panic as before.
pub fn count() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            COUNTED.with(|counted| counted.set(counted.get() + 1));
            before(panic);
        }));
    });
}

pub fn counted() -> usize {
    COUNTED.with(Cell::get)
}
