//! Submits a job that does nothing, and follows it to its end.
//!
//! Needs a running `qlora-coordinator` and a `qlora-worker`; on their machine it finds the token by
//! itself, elsewhere `QLORA_TOKEN` gives it.
//!
//! ```sh
//! cargo run --release -p qlora-client --example submit_noop -- [HOST:PORT]
//! ```

use std::error::Error;

use qlora_client::{Client, retry};
use qlora_proto::{JobKind, SubmitRequest, WatchRequest};
use tonic::Code;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let given = std::env::args().nth(1);
    let address = given.unwrap_or_else(|| "127.0.0.1:7070".into());
    // The connection is made by the first call.
    let mut client = Client::new(&address, None)?;
    let request = SubmitRequest {
        kind: JobKind::Noop.into(),
        name: "example".into(),
        ..SubmitRequest::default()
    };
    let submitted = match client.jobs.submit(request).await {
        Ok(answer) => answer.into_inner().job,
        Err(status) if status.code() == Code::Unavailable => {
            println!("no coordinator answers at {address}: start `qlora-coordinator` first");
            return Err(retry::root_cause(&status).into());
        }
        Err(status) if status.code() == Code::Unauthenticated => {
            println!(
                "the token is refused: {}",
                client.token_help(status.message())
            );
            return Err(status.into());
        }
        Err(status) => return Err(status.into()),
    };
    let id = submitted.ok_or("the answer has no job")?.id;
    println!("job {id} is durable");

    // The job as it is, then again after every change, until it has ended.
    let watch = client.jobs.watch(WatchRequest { id }).await?;
    let mut changes = watch.into_inner();
    while let Some(job) = changes.message().await? {
        println!("job {id}: {} {}", job.state().word(), job.reason);
    }
    Ok(())
}
