//! The folder: what lies there, and whether it is what its name says.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::Digest;

use super::error::at;
use super::hashes::{Hashes, Stamp};
use super::partial::Parts;
use super::upload::{Upload, hash_of};
use super::{ArtifactError, Digest256};

/// How long an upload that broke off waits for its sender, and an artifact for the job that will
/// need it.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// What the store has of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArtifactStat {
    /// It is there, and its bytes are those of its name.
    pub complete: bool,
    /// Something else lies under its name; an upload replaces it.
    pub damaged: bool,
    /// Bytes that are there: of the artifact, or of the upload that can be gone on with.
    pub size: u64,
}

/// A folder of artifacts; cheap to clone.
#[derive(Clone)]
pub struct ArtifactStore(Arc<Inner>);

pub(super) struct Inner {
    folder: PathBuf,
    pub parts: Parts,
    /// Files that were hashed, and what their bytes hash to.
    hashes: Hashes,
    /// When somebody was last told that an artifact is there, and need not send it.
    told: Mutex<HashMap<Digest256, Instant>>,
}

/// What lies under a final name.
enum Found {
    Nothing,
    Right { bytes: u64 },
    Damaged { found: String },
}

/// Runs what waits for the disk where waiting is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    digest: &Digest256,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArtifactError> {
    let ended = tokio::task::spawn_blocking(f).await;
    ended.map_err(|e| ArtifactError::Io {
        path: digest.as_str().into(),
        source: io::Error::other(e),
    })
}

impl ArtifactStore {
    /// Opens the store in `folder`, makes it where it is missing, and removes what was left of old
    /// uploads.
    pub async fn open(folder: &Path) -> Result<Self, ArtifactError> {
        let artifacts = folder.join("sha256");
        fs::create_dir_all(&artifacts).map_err(at(&artifacts))?;
        // The folders themselves are to be there after a power cut, too.
        for made in [&artifacts, folder]
            .into_iter()
            .chain(folder.parent().filter(|p| !p.as_os_str().is_empty()))
        {
            File::open(made)
                .and_then(|made| made.sync_all())
                .map_err(at(made))?;
        }
        let partial = folder.join("partial");
        let parts = Parts::open(partial.clone(), KEEP).map_err(at(&partial))?;
        Ok(Self(Arc::new(Inner {
            folder: folder.into(),
            parts,
            hashes: Hashes::default(),
            told: Mutex::default(),
        })))
    }

    /// Removes what was left of uploads that nobody has gone on with.
    pub fn clean(&self) {
        self.0.parts.clean(KEEP);
    }

    /// Removes all that was left of uploads, old or not: state must be stored, and their senders
    /// can send again.
    pub fn make_room(&self) {
        self.0.parts.clear();
    }

    /// What there is of an artifact; its bytes are hashed if they were not before.
    pub async fn stat(&self, digest: &Digest256) -> Result<ArtifactStat, ArtifactError> {
        let received = self.0.parts.bytes(digest);
        Ok(match self.found(digest).await? {
            Found::Right { bytes } => {
                self.0.told().insert(digest.clone(), Instant::now());
                ArtifactStat {
                    complete: true,
                    damaged: false,
                    size: bytes,
                }
            }
            Found::Nothing => ArtifactStat {
                complete: false,
                damaged: false,
                size: received,
            },
            Found::Damaged { .. } => ArtifactStat {
                complete: false,
                damaged: true,
                size: received,
            },
        })
    }

    /// Removes an artifact that nothing needs any more. One that cannot be removed is left, and
    /// told of.
    pub fn remove(&self, digest: &Digest256) {
        let path = self.0.final_path(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                self.0.hashes.forget(digest);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => tracing::warn!("{} cannot be removed: {e}", path.display()),
        }
    }

    /// Removes artifacts for which `is_needed` says no, and that nobody has sent or asked for
    /// within a day.
    ///
    /// # Errors
    /// A folder cannot be read.
    pub fn sweep(&self, is_needed: &dyn Fn(&str) -> bool) -> Result<u64, ArtifactError> {
        let (all, mut removed) = (self.0.folder.join("sha256"), 0);
        let now = SystemTime::now();
        for shelf in fs::read_dir(&all).map_err(at(&all))? {
            let shelf = shelf.map_err(at(&all))?.path();
            for file in fs::read_dir(&shelf).map_err(at(&shelf))? {
                let file = file.map_err(at(&shelf))?;
                let Some(digest) = file
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse::<Digest256>().ok())
                else {
                    continue;
                };
                let modified = file
                    .metadata()
                    .and_then(|meta| meta.modified())
                    .map_err(at(&file.path()))?;
                let is_old = now.duration_since(modified).is_ok_and(|age| age > KEEP);
                let was_told = self
                    .0
                    .told()
                    .get(&digest)
                    .is_some_and(|told| told.elapsed() < KEEP);
                if is_old && !was_told && !is_needed(digest.as_str()) {
                    self.remove(&digest);
                    removed += 1;
                }
            }
        }
        self.0.told().retain(|_, told| told.elapsed() < KEEP);
        Ok(removed)
    }

    async fn found(&self, digest: &Digest256) -> Result<Found, ArtifactError> {
        let (inner, name) = (self.0.clone(), digest.clone());
        let path = inner.final_path(digest);
        blocking(digest, move || inner.found(&name))
            .await?
            .map_err(at(&path))
    }

    /// Begins an upload of `size` bytes, or goes on at `offset` with one that broke off.
    pub async fn upload(
        &self,
        digest: &Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Upload, ArtifactError> {
        let (inner, name) = (self.0.clone(), digest.clone());
        blocking(digest, move || Upload::open(inner, &name, size, offset)).await?
    }

    /// Reads an artifact from `offset` on.
    ///
    /// # Errors
    /// It is not there, or its bytes are not those of its name.
    pub async fn read(
        &self,
        digest: &Digest256,
        offset: u64,
    ) -> Result<ArtifactReader, ArtifactError> {
        let path = self.0.final_path(digest);
        let size = match self.found(digest).await? {
            Found::Nothing => return Err(ArtifactError::Missing(digest.clone())),
            Found::Damaged { found } => {
                return Err(ArtifactError::Damaged {
                    digest: digest.clone(),
                    path,
                    found,
                });
            }
            Found::Right { bytes } => bytes,
        };
        let mut file = File::open(&path).map_err(at(&path))?;
        file.seek(SeekFrom::Start(offset.min(size)))
            .map_err(at(&path))?;
        Ok(ArtifactReader {
            size,
            file: Arc::new(file),
            path,
            digest: digest.clone(),
        })
    }
}

impl Inner {
    pub fn final_path(&self, digest: &Digest256) -> PathBuf {
        self.shelf(digest).join(digest.as_str())
    }

    fn shelf(&self, digest: &Digest256) -> PathBuf {
        self.folder.join("sha256").join(digest.folder())
    }

    /// Makes the folder of `digest` durable before anything is put there.
    pub fn make_folder(&self, digest: &Digest256) -> io::Result<()> {
        match fs::create_dir(self.shelf(digest)) {
            Ok(()) => File::open(self.folder.join("sha256"))?.sync_all(),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }

    pub fn sync_folder(&self, digest: &Digest256) -> io::Result<()> {
        File::open(self.shelf(digest))?.sync_all()
    }

    /// The bytes under the final name were hashed while they were written.
    pub fn vouch(&self, digest: &Digest256) -> io::Result<()> {
        let stamp = Stamp::of(&fs::metadata(self.final_path(digest))?);
        self.hashes.set(digest, stamp, digest.as_str().to_owned());
        Ok(())
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Digest256, Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self, digest: &Digest256) -> io::Result<Found> {
        let path = self.final_path(digest);
        let meta = match fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            other => other?,
        };
        let stamp = Stamp::of(&meta);
        let found = self.hashes.get(digest, stamp, || {
            let found = hex::encode(hash_of(&path)?.finalize());
            // It may have come to lie there in a moment that the folder was not synced after.
            self.sync_folder(digest)?;
            Ok(found)
        })?;
        if found == digest.as_str() {
            Ok(Found::Right { bytes: stamp.bytes })
        } else {
            Ok(Found::Damaged { found })
        }
    }
}

/// Reads an artifact piece by piece.
pub struct ArtifactReader {
    /// Of the whole artifact.
    pub size: u64,
    file: Arc<File>,
    path: PathBuf,
    digest: Digest256,
}

impl ArtifactReader {
    /// Up to `limit` further bytes; none at the end.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        let file = self.file.clone();
        let read = move || -> io::Result<Vec<u8>> {
            let mut buffer = vec![0u8; limit];
            let n = (&*file).read(&mut buffer)?;
            buffer.truncate(n);
            Ok(buffer)
        };
        blocking(&self.digest, read).await?.map_err(at(&self.path))
    }
}
