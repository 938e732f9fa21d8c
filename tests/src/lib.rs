//! Starts the real programs in a folder of their own, with a small model made on the spot, and
//! waits for what they say instead of for time to pass. The programs are those of
//! `target/<profile>`: build them first.

mod built;
mod fixture;
pub mod functions;
mod http;
mod hub;
mod link;
pub mod modules;
mod postgres;
mod programs;
mod proxy;
pub mod repository;
mod s3;
mod wall;
mod witness;

pub use built::{binary, forget_settings, launch, launch_through};
pub use fixture::{conversations, tiny_model};
pub use http::{Answer, http, try_http};
pub use hub::Hub;
pub use link::Link;
pub use postgres::Postgres;
pub use programs::{Ctl, Program, World, device, wait_until};
pub use proxy::Proxy;
pub use qlora_testkit::Chance;
pub use s3::{BUCKET, S3Server};
pub use wall::Wall;
pub use witness::{Sight, Witness};
