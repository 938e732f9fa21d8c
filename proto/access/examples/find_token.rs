//! Makes a coordinator's token, and finds it as another program of the same user would.
//!
//! ```sh
//! cargo run --release -p qlora-access --example find_token
//! ```

use std::error::Error;
use std::net::TcpListener;

use qlora_access::{Found, Record, Search, Token, Wire};

fn main() -> Result<(), Box<dyn Error>> {
    // The coordinator: its token stays in its state folder over restarts.
    let state = tempfile::tempdir()?;
    let token = Token::keep(state.path())?;
    let again = Token::keep(state.path())?;
    println!("a restart has the same token: {}", again.is(token.secret()));
    println!("debug output hides it: {token:?}");

    // It leaves a record of the address on which it listens, for as long as it runs.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let record = Record::leave(address, &token, &Wire::Plain)?;

    // A client that was given no token looks for the record of the address that it calls.
    let search = Search::new("localhost", address.port());
    match search.find() {
        Found::Token(found) => println!("found: {}", found.is(token.secret())),
        other => return Err(format!("the record is not found: {other:?}").into()),
    }
    let elsewhere = Search::new("192.0.2.1", address.port());
    println!("for another machine: {:?}", elsewhere.find());

    // A token of a coordinator that is gone is sent to nobody.
    drop(record);
    println!("after it has stopped: {:?}", search.find());
    Ok(())
}
