//! Stores a job and an artifact, closes both stores as a restart would, and finds them again.
//!
//! ```sh
//! cargo run --release -p qlora-store --example restart
//! ```

use std::error::Error;
use std::path::Path;

use qlora_engine::{Engine, Job, JobId, JobKind, JobSpec, Limits, Now};
use qlora_store::{ArtifactStore, Digest256, JobStore, SqliteStore, Write};
use sha2::{Digest, Sha256};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let bytes = b"an adapter";
    let digest: Digest256 = hex::encode(Sha256::digest(bytes)).parse()?;
    before(folder.path(), &digest, bytes).await?;

    let stored = SqliteStore::open(folder.path()).await?.load().await?;
    for job in &stored.jobs {
        println!("job {} is there: {}", job.id, job.spec.name);
    }
    let owner = stored.owner();
    let artifacts = ArtifactStore::open(&folder.path().join("artifacts"), &owner).await?;
    let stat = artifacts.stat(&digest).await?;
    println!("artifact complete: {}, {} bytes", stat.complete, stat.size);
    let mut reader = artifacts.read(&digest, 3).await?;
    let rest = reader.next(64).await?;
    println!("from byte 3 on: {}", String::from_utf8_lossy(&rest));

    // A coordinator goes on with these jobs, and gives out no number twice.
    let mut engine = Engine::new(Limits::default(), stored.jobs, Now::both(1), [2; 32]);
    engine.adopt_ended(stored.ended);
    engine.reserve(stored.reserved);
    println!("jobs of the engine: {}", engine.jobs().count());
    Ok(())
}

/// The first life: what was applied or published here is durable.
async fn before(folder: &Path, digest: &Digest256, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let store = SqliteStore::open(folder).await?;
    let job = Job::new(JobId(1), spec(), Now::both(0));
    // A batch is durable as a whole, or nothing of it is.
    store.apply(vec![Write::SaveJob(Box::new(job))]).await?;

    // Its mark says whose artifacts these are: another database is refused.
    let owner = store.load().await?.owner();
    let artifacts = ArtifactStore::open(&folder.join("artifacts"), &owner).await?;
    let mut upload = artifacts.upload(digest, bytes.len() as u64, 0).await?;
    upload.write(bytes.to_vec()).await?;
    // Under its final name an artifact is complete, and its bytes are those of its digest.
    upload.finish().await?.publish().await?;
    Ok(())
}

fn spec() -> JobSpec {
    JobSpec {
        kind: JobKind::Train,
        config_json: "{}".into(),
        config_hash: "SHA-256 of the configuration".into(),
        max_retries: 2,
        checkpoints_to_keep: 2,
        ..JobSpec::noop("kept")
    }
}
