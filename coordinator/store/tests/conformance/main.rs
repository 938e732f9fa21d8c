//! One suite for every job store.

mod bounds;
#[path = "../common/mod.rs"]
mod common;
mod cut_off;
mod drains;
mod lists;
mod numbers;
#[allow(dead_code)]
#[path = "../../../../tests/src/postgres.rs"]
mod postgres;
mod removal;
mod together;
mod tokens;
mod whole;

use bounds::{BOUNDS, keeps_what_was_asked_for, trims};
use common::{database, lead, leads};
use cut_off::cuts_off;
use drains::{are_still_drained, keeps_drains};
use lists::lists;
use postgres::Postgres;
use qlora_store::{Bounds, Candidate, JobStore};
use removal::{forgets_records, removes};
use tokens::{are_still_revoked, keeps_tokens};
use whole::conforms;

/// All of the suite, each part in a database of its own.
#[tokio::test]
async fn postgres_conforms() {
    let server = Postgres::start();
    let store = async |name: &str| lead(&server.database(name), Bounds::default()).await;
    conforms(store("conforms").await).await;
    removes(store("removes").await).await;
    trims(lead(&server.database("trims"), BOUNDS).await).await;
    keeps_what_was_asked_for(lead(&server.database("asked"), BOUNDS).await).await;
    let sized = store("records").await;
    assert!(sized.disk_bytes() > 0);
    forgets_records(sized).await;
    cuts_off(store("cuts").await).await;
    lists(&store("lists").await).await;
    // The store of before is dropped: what it kept is there for whoever leads next.
    let again = async |name: &str| {
        let mut candidate = Candidate::new(database(&server.url(name)));
        leads(&mut candidate, "b:1").await
    };
    keeps_drains(&store("drains").await).await;
    are_still_drained(&again("drains").await).await;
    keeps_tokens(&store("tokens").await).await;
    are_still_revoked(&again("tokens").await).await;
}
