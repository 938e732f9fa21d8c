//! The bucket: where an artifact lies in it, what there is of one, and what goes.

use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode};
use tokio_stream::StreamExt;

use super::fault::BucketFault;
use super::ledger::{Ledger, Object};
use super::open::{self, Clients};
use super::record::Record;
use super::resting::Resting;
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};
use crate::artifacts::found::Found;
use crate::artifacts::owner::{MARK, Owner};
use crate::artifacts::place::BucketPlace;

/// Parts of one upload that S3 takes.
const MOST_PARTS: u64 = 10_000;
/// A part is held in memory until it is sent.
const LARGEST_PART: u64 = 64 << 20;

/// Artifacts in a bucket, and records of the uploads to it.
pub(in crate::artifacts) struct Bucket {
    place: BucketPlace,
    root: Path,
    pub(super) client: AmazonS3,
    /// For what takes long to send.
    pub(super) sender: AmazonS3,
    pub(super) ledger: Ledger,
    pub(super) resting: Resting,
    /// Whether the ledger has seen all objects once.
    is_listed: AtomicBool,
}

/// An object that is there, and whether its bytes were found to be right or wrong.
pub(super) struct Known {
    pub object: Object,
    pub right: Option<bool>,
}

impl Bucket {
    /// Opens the bucket at `place`, takes it for `owner`, with records of uploads in the folder `records`, and ends
    /// uploads that have waited for longer than `keep`.
    pub async fn open(
        place: &BucketPlace,
        owner: &Owner,
        records: &FilePath,
        variables: &[(String, String)],
        keep: Duration,
    ) -> Result<Self, ArtifactError> {
        let root = Path::from(place.prefix.as_str());
        let Clients { client, sender } = open::open(place, &root, variables)
            .await
            .map_err(|fault| failed(place, fault))?;
        let resting = Resting::open(records.to_owned(), &place.to_string()).map_err(at(records))?;
        let bucket = Self {
            place: place.clone(),
            root,
            client,
            sender,
            ledger: Ledger::default(),
            resting,
            is_listed: AtomicBool::new(false),
        };
        bucket.take(owner).await?;
        bucket.clean(keep).await;
        Ok(bucket)
    }

    /// Takes the place for `owner`, and marks it where nobody has.
    async fn take(&self, owner: &Owner) -> Result<(), ArtifactError> {
        let key = self.root.clone().join(MARK);
        let shown = format!("s3://{}/{key}", self.place.bucket);
        let first = self.client.list(Some(&self.shelves())).next().await;
        let is_empty = first.transpose().map_err(|e| self.failed(&e))?.is_none();
        if let Some(mark) = self.mark(&key).await? {
            return owner.takes(&shown, &mark, is_empty);
        }
        owner.adopts(&shown, is_empty)?;
        let put = self
            .client
            .put_opts(&key, owner.text().into(), PutMode::Create.into());
        match put.await {
            Ok(_) | Err(Error::AlreadyExists { .. }) => {}
            Err(e) => return Err(self.failed(&e)),
        }
        // Another coordinator may have come first.
        let mark = self.mark(&key).await?.unwrap_or_default();
        owner.takes(&shown, &mark, is_empty)
    }

    /// The bytes of the mark; none where there is none.
    async fn mark(&self, key: &Path) -> Result<Option<Vec<u8>>, ArtifactError> {
        let read = async { self.client.get(key).await?.bytes().await };
        match read.await {
            Ok(bytes) => Ok(Some(bytes.to_vec())),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.failed(&e)),
        }
    }

    pub(super) fn key(&self, digest: &Digest256) -> Path {
        self.shelves().join(digest.folder()).join(digest.as_str())
    }

    fn shelves(&self) -> Path {
        self.root.clone().join("sha256")
    }

    /// The key as people write it.
    pub(super) fn path(&self, digest: &Digest256) -> PathBuf {
        format!("s3://{}/{}", self.place.bucket, self.key(digest)).into()
    }

    pub(super) fn name(&self) -> String {
        self.place.to_string()
    }

    /// Bytes of a part, for an artifact of `size` bytes.
    pub(super) fn part_bytes(&self, digest: &Digest256, size: u64) -> Result<usize, ArtifactError> {
        let least = size.div_ceil(MOST_PARTS);
        if least > LARGEST_PART {
            return Err(ArtifactError::TooLarge {
                digest: digest.clone(),
                size,
                limit: LARGEST_PART * MOST_PARTS,
            });
        }
        // Below 64 MiB, so it is a usize.
        let least = least.next_multiple_of(1 << 20) as usize;
        Ok(if size <= self.place.part_bytes as u64 * MOST_PARTS {
            self.place.part_bytes
        } else {
            least
        })
    }

    pub(super) fn failed(&self, error: &Error) -> ArtifactError {
        failed(&self.place, BucketFault::of(error))
    }

    /// Bytes with which the next upload of `digest` may go on.
    pub fn resting_bytes(&self, digest: &Digest256) -> u64 {
        self.resting.bytes(digest)
    }

    /// Asks the bucket for the object of `digest`.
    pub(super) async fn look(&self, digest: &Digest256) -> Result<Option<Known>, ArtifactError> {
        match self.client.head(&self.key(digest)).await {
            Ok(meta) => {
                let object = object_of(&meta);
                let right = self.ledger.saw(digest, &object);
                Ok(Some(Known { object, right }))
            }
            Err(Error::NotFound { .. }) => {
                self.ledger.forget(digest);
                Ok(None)
            }
            Err(e) => Err(self.failed(&e)),
        }
    }

    /// What lies under the name of `digest`. An object counts as right until its bytes were read
    /// and found wrong: it came there by an upload that was checked, and the bucket guards it.
    pub async fn find(&self, digest: &Digest256) -> Result<Found, ArtifactError> {
        Ok(match self.look(digest).await? {
            None => Found::Nothing,
            Some(Known {
                right: Some(false), ..
            }) => Found::Damaged {
                fault: WRONG.to_owned(),
            },
            Some(Known { object, .. }) => Found::Right {
                bytes: object.bytes,
            },
        })
    }

    /// Removes the object of `digest`. One that cannot be removed stays, and the log names it.
    pub async fn remove(&self, digest: &Digest256) {
        match self.client.delete(&self.key(digest)).await {
            Ok(()) | Err(Error::NotFound { .. }) => self.ledger.forget(digest),
            Err(e) => tracing::warn!(
                "{} cannot be removed: {}",
                self.path(digest).display(),
                BucketFault::of(&e)
            ),
        }
    }

    /// The artifacts that were put there more than `keep` ago.
    pub async fn older_than(&self, keep: Duration) -> Result<Vec<Digest256>, ArtifactError> {
        let begun = Instant::now();
        let (mut listed, mut old) = (HashMap::new(), Vec::new());
        let mut objects = self.client.list(Some(&self.shelves()));
        while let Some(meta) = objects.next().await {
            let meta = meta.map_err(|e| self.failed(&e))?;
            let name = meta.location.filename().map(str::parse::<Digest256>);
            let Some(Ok(digest)) = name else { continue };
            let age = SystemTime::from(meta.last_modified).elapsed();
            if age.is_ok_and(|age| age > keep) {
                old.push(digest.clone());
            }
            listed.insert(digest, object_of(&meta));
        }
        self.ledger.listed(begun, &listed);
        self.is_listed.store(true, Ordering::Relaxed);
        Ok(old)
    }

    /// Bytes of all objects and of uploads that wait. The first call lists the bucket; later ones
    /// count what this process has put and removed since, and each sweep lists it again.
    pub async fn bytes(&self) -> Result<u64, ArtifactError> {
        if !self.is_listed.load(Ordering::Relaxed) {
            self.older_than(Duration::MAX).await?;
        }
        Ok(self.ledger.bytes() + self.resting.all_bytes())
    }

    /// Ends uploads that have waited for longer than `keep`.
    pub async fn clean(&self, keep: Duration) {
        self.resting.expire(keep);
        self.end_doomed().await;
    }

    /// Ends the upload of `record`; where that fails, [`Self::clean`] tries again.
    pub(super) async fn end(&self, record: Record) {
        self.resting.doom(record);
        self.end_doomed().await;
    }

    /// Keeps the record of an upload that broke off, and ends what it takes the place of.
    pub(super) fn rest(self: &Arc<Self>, record: Record) {
        self.resting.rest(record);
        if self.resting.doomed() > 0
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let bucket = self.clone();
            runtime.spawn(async move { bucket.end_doomed().await });
        }
    }

    async fn end_doomed(&self) {
        // Once each: those that cannot be ended are behind the others again.
        for _ in 0..self.resting.doomed() {
            let Some(mut doomed) = self.resting.next_doomed() else {
                return;
            };
            let Some(record) = doomed.record() else {
                continue;
            };
            let key = self.key(&record.digest);
            match self.client.abort_multipart(&key, &record.upload).await {
                Ok(()) | Err(Error::NotFound { .. }) => doomed.has_ended(),
                Err(e) => tracing::warn!(
                    "an upload to {} cannot be ended yet: {}",
                    self.path(&record.digest).display(),
                    BucketFault::of(&e)
                ),
            }
        }
    }
}

/// What is said of an object whose bytes were found wrong.
pub(super) const WRONG: &str = "its bytes do not hash to its name";

fn object_of(meta: &ObjectMeta) -> Object {
    Object {
        bytes: meta.size,
        tag: tag_of(meta.e_tag.as_deref()),
    }
}

/// An entity tag without its quotes: answers of different requests have them or not.
pub(super) fn tag_of(tag: Option<&str>) -> String {
    tag.unwrap_or_default().trim_matches('"').to_owned()
}

fn failed(place: &BucketPlace, fault: BucketFault) -> ArtifactError {
    ArtifactError::Bucket {
        place: place.to_string(),
        fault,
    }
}
