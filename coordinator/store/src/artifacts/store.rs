//! The operations of the store: tell what it has, take an upload, read, and remove what nothing
//! needs. The backends know how bytes lie in a folder or in a bucket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::blocking::Waits;
use super::claims::{Claim, Claims};
use super::digest::Digest256;
use super::error::{ArtifactError, at};
use super::folder::{FileReader, FileUpload, Folder, check, older_than};
use super::found::Found;
use super::owner::Owner;
use super::place::BucketPlace;
use super::reader::ArtifactReader;
use super::s3::{Bucket, ObjectReader, ObjectUpload, check_settings};
use super::upload::{Upload, UploadTo};

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

/// Artifacts in a folder or a bucket; cheap to clone.
#[derive(Clone)]
pub struct ArtifactStore {
    backend: Backend,
    /// When somebody was last told that an artifact is there, and need not send it.
    told: Arc<Mutex<HashMap<Digest256, Instant>>>,
    claims: Claims,
}

#[derive(Clone)]
enum Backend {
    Folder(Arc<Folder>),
    Bucket(Arc<Bucket>),
}

impl ArtifactStore {
    /// Opens the store in `folder`, makes it where it is missing, marks it as `owner`'s where it has
    /// no mark, and removes what was left of old uploads.
    ///
    /// # Errors
    /// The folder is another's, it lacks the artifacts of `owner`, or it cannot be used. Then nothing
    /// is removed.
    pub async fn open(folder: &Path, owner: &Owner) -> Result<Self, ArtifactError> {
        let folder = Folder::open(folder, owner, KEEP, Waits::Thread)?;
        Ok(Self::on(Backend::Folder(Arc::new(folder))))
    }

    /// As [`Self::open`], for a simulation: whoever calls waits for the disk itself, since what
    /// happens in one thread must not depend on how fast another is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_in_place(folder: &Path, owner: &Owner) -> Result<Self, ArtifactError> {
        let folder = Folder::open(folder, owner, KEEP, Waits::Task)?;
        Ok(Self::on(Backend::Folder(Arc::new(folder))))
    }

    /// Whether `folder` is where the leader keeps the artifacts of `owner`, for somebody who waits to
    /// open it as the next leader; changes nothing.
    ///
    /// # Errors
    /// The folder is another's, it lacks the artifacts of `owner`, or it cannot be read; or it is
    /// [`ArtifactError::Unmarked`], and may be the leader's own or not.
    pub async fn check(folder: PathBuf, owner: Owner) -> Result<(), ArtifactError> {
        let path = folder.clone();
        let ended = Waits::Thread.run(move || check(&folder, &owner)).await;
        ended.map_err(|e| at(&path)(std::io::Error::other(e)))?
    }

    /// Opens the store in the bucket at `place`, by the `AWS_*` ones of `variables`, marks it as
    /// `owner`'s where it has no mark, and ends what was left of old uploads. The folder `records` has what is to be known of uploads that broke off.
    ///
    /// # Errors
    /// The bucket cannot be listed or written, the place in it is another's or lacks the artifacts of
    /// `owner`, or the folder cannot be used.
    pub async fn open_bucket(
        place: &BucketPlace,
        owner: &Owner,
        records: &Path,
        variables: &[(String, String)],
    ) -> Result<Self, ArtifactError> {
        let bucket = Bucket::open(place, owner, records, variables, KEEP).await?;
        Ok(Self::on(Backend::Bucket(Arc::new(bucket))))
    }

    /// Whether the `AWS_*` ones of `variables` can name a server, for somebody who may open a bucket
    /// later; asks nobody.
    ///
    /// # Errors
    /// One of them cannot be used.
    pub fn check_bucket(
        place: &BucketPlace,
        variables: &[(String, String)],
    ) -> Result<(), ArtifactError> {
        check_settings(variables).map_err(|fault| ArtifactError::Bucket {
            place: place.to_string(),
            fault,
        })
    }

    fn on(backend: Backend) -> Self {
        Self {
            backend,
            told: Arc::default(),
            claims: Claims::default(),
        }
    }

    /// Removes what was left of uploads that nobody has gone on with.
    pub async fn clean(&self) {
        match &self.backend {
            Backend::Folder(folder) => folder.clean(KEEP),
            Backend::Bucket(bucket) => bucket.clean(KEEP).await,
        }
    }

    /// Removes all that was left of uploads on this disk, old or not: state must be stored, and
    /// their senders can send again. Those to a bucket take next to nothing here, and stay.
    pub fn make_room(&self) {
        match &self.backend {
            Backend::Folder(folder) => folder.make_room(),
            Backend::Bucket(_) => {}
        }
    }

    /// Bytes that artifacts and uploads take in the folder or the bucket.
    ///
    /// # Errors
    /// The bucket cannot be listed.
    pub async fn bytes(&self) -> Result<u64, ArtifactError> {
        match &self.backend {
            Backend::Folder(folder) => on_disk(folder, |folder| Ok(folder.bytes())).await,
            Backend::Bucket(bucket) => bucket.bytes().await,
        }
    }

    /// What there is of an artifact, for somebody who relies on it: one that is complete stays for
    /// a day.
    pub async fn stat(&self, digest: &Digest256) -> Result<ArtifactStat, ArtifactError> {
        // It does not go between the look and the answer. Where it goes, others are not kept waiting.
        let _claim = self.claims.claim_after(digest).await;
        let stat = self.look(digest).await?;
        if stat.complete {
            self.told().insert(digest.clone(), Instant::now());
        }
        Ok(stat)
    }

    /// Keeps an artifact for somebody who is about to refer to it, who looks for it after this and
    /// drops the claim once the reference is durable. None while it is being removed.
    pub fn claim(&self, digest: &Digest256) -> Option<Claim> {
        self.claims.claim(digest)
    }

    /// What there is of an artifact. In a folder its bytes are hashed if they were not before; in
    /// a bucket they are hashed when they are read.
    pub async fn look(&self, digest: &Digest256) -> Result<ArtifactStat, ArtifactError> {
        Ok(match self.find(digest).await? {
            Found::Right { bytes } => ArtifactStat {
                complete: true,
                damaged: false,
                size: bytes,
            },
            Found::Nothing => ArtifactStat {
                complete: false,
                damaged: false,
                size: self.resting_bytes(digest),
            },
            Found::Damaged { .. } => ArtifactStat {
                complete: false,
                damaged: true,
                size: self.resting_bytes(digest),
            },
        })
    }

    /// Bytes of the upload that can be gone on with.
    fn resting_bytes(&self, digest: &Digest256) -> u64 {
        match &self.backend {
            Backend::Folder(folder) => folder.resting_bytes(digest),
            Backend::Bucket(bucket) => bucket.resting_bytes(digest),
        }
    }

    /// Removes an artifact that no job needs any more, unless somebody has claimed it, or was told
    /// within a day that it is there: a job that needs it may be on its way. [`Self::sweep`] comes
    /// to it later. `is_needed` is asked last of all, once nobody can refer to it any more who has
    /// not done so. One that cannot be removed stays, and the log names it. Whether it was to be
    /// removed.
    pub async fn release(
        &self,
        digest: &Digest256,
        is_needed: impl Future<Output = bool> + Send,
    ) -> bool {
        // Nobody is told of it meanwhile, since nobody claims it.
        let Some(going) = self.claims.go(digest) else {
            return false;
        };
        let told = self.told().get(digest).copied();
        let was_told = told.is_some_and(|told| told.elapsed() < KEEP);
        if was_told || is_needed.await {
            return false;
        }
        match &self.backend {
            Backend::Folder(folder) => {
                let name = digest.clone();
                let removed = on_disk(folder, move |folder| {
                    folder.remove(&name);
                    // Here, since it is removed also where nobody waits for that any more.
                    drop(going);
                    Ok(())
                });
                if let Err(e) = removed.await {
                    tracing::warn!("{e}");
                }
            }
            Backend::Bucket(bucket) => bucket.remove(digest).await,
        }
        true
    }

    /// Gives artifacts that nobody has sent within a day to `release`, one after the other, and
    /// counts those of which it says that they went.
    ///
    /// # Errors
    /// A folder cannot be read, or the bucket cannot be listed.
    pub async fn sweep<R: Future<Output = bool> + Send>(
        &self,
        release: impl Fn(Digest256) -> R + Send + Sync,
    ) -> Result<u64, ArtifactError> {
        let mut removed = 0;
        match &self.backend {
            Backend::Folder(folder) => {
                let shelves = on_disk(folder, |folder| folder.shelves()).await?;
                // An artifact may be replaced meanwhile: what is old is removed at once, shelf by
                // shelf.
                for shelf in shelves {
                    let old = on_disk(folder, move |_| older_than(KEEP, &shelf)).await?;
                    removed += release_all(old, &release).await;
                }
            }
            Backend::Bucket(bucket) => {
                let old = bucket.older_than(KEEP).await?;
                removed += release_all(old, &release).await;
            }
        }
        self.told().retain(|_, told| told.elapsed() < KEEP);
        Ok(removed)
    }

    /// Begins an upload of `size` bytes, or goes on at `offset` with one that broke off.
    pub async fn upload(
        &self,
        digest: &Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Upload, ArtifactError> {
        Ok(Upload(match &self.backend {
            Backend::Folder(folder) => {
                let (waits, folder, name) = (folder.waits, folder.clone(), digest.clone());
                let open = move || FileUpload::open(folder, &name, size, offset);
                UploadTo::Folder(waits.run_for(digest, open).await??)
            }
            Backend::Bucket(bucket) => {
                UploadTo::Bucket(ObjectUpload::open(bucket.clone(), digest, size, offset)?)
            }
        }))
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
        let folder = match &self.backend {
            Backend::Folder(folder) => folder,
            Backend::Bucket(bucket) => {
                let reader = ObjectReader::open(bucket.clone(), digest, offset).await?;
                return Ok(ArtifactReader::of_bucket(reader));
            }
        };
        match self.find(digest).await? {
            Found::Nothing => Err(ArtifactError::Missing(digest.clone())),
            Found::Damaged { fault } => Err(ArtifactError::Damaged {
                digest: digest.clone(),
                path: folder.final_path(digest),
                fault,
            }),
            Found::Right { bytes } => {
                let reader = FileReader::open(folder.clone(), digest.clone(), bytes, offset)?;
                Ok(ArtifactReader::of_folder(reader))
            }
        }
    }

    async fn find(&self, digest: &Digest256) -> Result<Found, ArtifactError> {
        match &self.backend {
            Backend::Folder(folder) => {
                let (waits, path) = (folder.waits, folder.final_path(digest));
                let (folder, name) = (folder.clone(), digest.clone());
                let found = waits.run_for(digest, move || folder.find(&name)).await?;
                found.map_err(at(&path))
            }
            Backend::Bucket(bucket) => bucket.find(digest).await,
        }
    }

    fn told(&self) -> MutexGuard<'_, HashMap<Digest256, Instant>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn release_all<R: Future<Output = bool> + Send>(
    old: Vec<Digest256>,
    release: &(impl Fn(Digest256) -> R + Send + Sync),
) -> u64 {
    let mut removed = 0;
    for digest in old {
        removed += u64::from(release(digest).await);
    }
    removed
}

/// Runs `f`, which may wait for the disk of `folder`.
async fn on_disk<T: Send + 'static>(
    folder: &Arc<Folder>,
    f: impl FnOnce(&Folder) -> Result<T, ArtifactError> + Send + 'static,
) -> Result<T, ArtifactError> {
    let (waits, path) = (folder.waits, folder.path().to_owned());
    let folder = folder.clone();
    let ended = waits.run(move || f(&folder)).await;
    ended.map_err(|e| at(&path)(std::io::Error::other(e)))?
}
