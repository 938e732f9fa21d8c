//! The pool of what Metal autoreleases, which candle never releases. Programs for other systems
//! have none.

/// Does `work`, and releases what Metal autoreleased on this thread meanwhile.
#[cfg(target_os = "macos")]
pub(crate) fn autoreleased<T>(work: impl FnOnce() -> T) -> T {
    objc2::rc::autoreleasepool(|_| work())
}

/// Does `work`.
#[cfg(not(target_os = "macos"))]
pub(crate) fn autoreleased<T>(work: impl FnOnce() -> T) -> T {
    work()
}
