//! Logs, traces and metrics of the three programs.
//!
//! Logs go to stderr, filtered by `RUST_LOG`. Traces and metrics leave by OTLP where the standard
//! `OTEL_*` variables name an endpoint, and not at all where they do not. Trace context travels in
//! gRPC metadata by [`inject`] and [`extract`]. The programs decide what is measured.

mod propagate;
mod setup;
mod stderr;

pub use propagate::{current_traceparent, extract, inject, set_parent, set_parent_text};
pub use setup::{Guard, Logs, Program, SetupError, start};
pub use stderr::print_line;
