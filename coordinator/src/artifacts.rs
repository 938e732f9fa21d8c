//! Opens the artifacts, wherever they lie.

use std::ffi::OsString;
use std::path::Path;

use qlora_store::{ArtifactError, ArtifactPlace, ArtifactStore, Owner};

/// Variables of the environment, by which a bucket is reached.
fn variables() -> Vec<(String, String)> {
    let read = |(name, value): (OsString, OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(read).collect()
}

/// Whether `place` is where the leader keeps the artifacts of `owner`, before a standby needs it. A
/// bucket is one and the same for all; a folder may be another machine's own.
pub async fn check(
    place: Option<&ArtifactPlace>,
    folder: &Path,
    owner: Owner,
) -> Result<(), ArtifactError> {
    match place {
        None => ArtifactStore::check(folder.join("artifacts"), owner).await,
        Some(ArtifactPlace::Folder(other)) => ArtifactStore::check(other.clone(), owner).await,
        Some(ArtifactPlace::Bucket(place)) => ArtifactStore::check_bucket(place, &variables()),
    }
}

/// Opens the artifacts of `owner` at `place`, or in the state folder `folder`, which also has the
/// records of uploads to a bucket.
pub async fn open(
    place: Option<&ArtifactPlace>,
    folder: &Path,
    owner: &Owner,
) -> Result<ArtifactStore, ArtifactError> {
    let own = folder.join("artifacts");
    match place {
        None => ArtifactStore::open(&own, owner).await,
        Some(ArtifactPlace::Folder(other)) => ArtifactStore::open(other, owner).await,
        Some(ArtifactPlace::Bucket(place)) => {
            let records = folder.join("uploads");
            let store = ArtifactStore::open_bucket(place, owner, &records, &variables()).await?;
            if std::fs::read_dir(own.join("sha256")).is_ok_and(|mut all| all.next().is_some()) {
                tracing::warn!(
                    "artifacts in {} are not looked for there any more; copy the folder sha256 in it to {place}/sha256",
                    own.display()
                );
            }
            Ok(store)
        }
    }
}
