//! Starts the real programs in a folder of their own, with a small model made on the spot, and
//! waits for what they say instead of for time to pass. The programs are those of
//! `target/<profile>`: build them first.

mod built;
pub mod documented;
mod fixture;
pub mod functions;
mod http;
pub mod modules;
mod programs;
mod proxy;
pub mod repository;
mod s3;
pub mod skipped;

pub use built::{binary, forget_settings, launch};
pub use fixture::{conversations, tiny_model};
pub use http::{Answer, http};
pub use programs::{Ctl, Program, World, device, wait_until};
pub use proxy::Proxy;
pub use s3::{BUCKET, S3Server};
