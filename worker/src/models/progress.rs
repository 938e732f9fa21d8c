//! Who hears of a download.

use qlora_client::console;

/// Hears how far a download is.
pub trait Progress {
    fn start(&self, what: &str, bytes: u64);
    fn at(&self, bytes: u64);
    fn note(&self, text: &str);
}

/// Draws nothing and tells only what matters.
pub struct Quiet;

impl Progress for Quiet {
    fn start(&self, _: &str, _: u64) {}

    fn at(&self, _: u64) {}

    fn note(&self, text: &str) {
        console::note(text);
    }
}
