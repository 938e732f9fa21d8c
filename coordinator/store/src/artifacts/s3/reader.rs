//! An artifact in a bucket that is read piece by piece, so that no caller holds all of its bytes.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;

use object_store::{Error, GetOptions, GetRange, ObjectStore};
use sha2::{Digest, Sha256};
use tokio_stream::{Stream, StreamExt};

use super::bucket::{Bucket, Known, WRONG};
use super::fault::BucketFault;
use super::ledger::Object;
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::ArtifactError;

type Pieces = Pin<Box<dyn Stream<Item = Result<Vec<u8>, Error>> + Send>>;

/// Reads an object piece by piece.
pub(in crate::artifacts) struct ObjectReader {
    /// Of the whole artifact.
    pub size: u64,
    bucket: Arc<Bucket>,
    digest: Digest256,
    object: Object,
    /// None at the end.
    pieces: Option<Pieces>,
    /// Bytes that have come and were not asked for yet.
    left: Vec<u8>,
    /// Bytes to come that are read for the hash alone.
    skipped: u64,
    /// Of all bytes so far; none where the object was found right before, and is read from its
    /// middle.
    hash: Option<Sha256>,
}

impl ObjectReader {
    /// Opens the object of `digest` at `offset`.
    pub async fn open(
        bucket: Arc<Bucket>,
        digest: &Digest256,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let known = bucket.look(digest).await?;
        let Some(Known { object, right }) = known else {
            return Err(ArtifactError::Missing(digest.clone()));
        };
        if right == Some(false) {
            return Err(damaged(&bucket, digest, WRONG.to_owned()));
        }
        let offset = offset.min(object.bytes);
        // A tag tells that it is the object whose bytes were right.
        let is_vouched = right == Some(true) && !object.tag.is_empty();
        let begin = if is_vouched { offset } else { 0 };
        // There is no range behind the end.
        let pieces = if begin < object.bytes || begin == 0 {
            Some(pieces_from(&bucket, digest, &object, begin).await?)
        } else {
            None
        };
        Ok(Self {
            size: object.bytes,
            bucket,
            digest: digest.clone(),
            object,
            pieces,
            left: Vec::new(),
            skipped: offset - begin,
            hash: (begin == 0).then(Sha256::new),
        })
    }

    /// Up to `limit` further bytes; none at the end.
    ///
    /// # Errors
    /// Also [`ArtifactError::Damaged`] in the place of the end, where the bytes that were read are
    /// not those of the name.
    pub async fn next(&mut self, limit: usize) -> Result<Vec<u8>, ArtifactError> {
        while self.left.len() < limit
            && let Some(pieces) = &mut self.pieces
        {
            match pieces.next().await {
                Some(Ok(piece)) => self.take_in(&piece),
                Some(Err(e)) => return Err(failed(&self.bucket, &self.digest, &e)),
                None => self.pieces = None,
            }
        }
        if self.left.is_empty() && limit > 0 {
            self.check()?;
        }
        let later = self.left.split_off(limit.min(self.left.len()));
        Ok(mem::replace(&mut self.left, later))
    }

    fn take_in(&mut self, piece: &[u8]) {
        if let Some(hash) = &mut self.hash {
            hash.update(piece);
        }
        let skipped = self.skipped.min(piece.len() as u64);
        self.skipped -= skipped;
        // No more than the length of the piece, which is a usize.
        self.left.extend_from_slice(&piece[skipped as usize..]);
    }

    /// Of an artifact that was read to its end: whether it was what its name says.
    fn check(&self) -> Result<(), ArtifactError> {
        let Some(hash) = &self.hash else {
            return Ok(());
        };
        let found = hex::encode(hash.clone().finalize());
        let right = found == self.digest.as_str();
        self.bucket.ledger.judge(&self.digest, &self.object, right);
        if right {
            Ok(())
        } else {
            Err(damaged(
                &self.bucket,
                &self.digest,
                format!("its bytes hash to {found}"),
            ))
        }
    }
}

/// Asks for the bytes of `object` from `begin` on, and of no other that has taken its place.
async fn pieces_from(
    bucket: &Bucket,
    digest: &Digest256,
    object: &Object,
    begin: u64,
) -> Result<Pieces, ArtifactError> {
    let tag = Some(&object.tag).filter(|tag| !tag.is_empty());
    let options = GetOptions::new()
        .with_if_match(tag.map(|tag| format!("\"{tag}\"")))
        .with_range((begin > 0).then_some(GetRange::Offset(begin)));
    let got = bucket.client.get_opts(&bucket.key(digest), options).await;
    let got = got.map_err(|e| failed(bucket, digest, &e))?;
    let pieces = got.into_stream();
    Ok(Box::pin(pieces.map(|piece| piece.map(Vec::from))))
}

fn failed(bucket: &Bucket, digest: &Digest256, error: &Error) -> ArtifactError {
    let fault = match error {
        Error::NotFound { .. } => ArtifactError::Missing(digest.clone()),
        _ => bucket.failed(error),
    };
    if let ArtifactError::Bucket {
        fault: BucketFault::Replaced,
        ..
    } = fault
    {
        bucket.ledger.forget(digest);
    }
    fault
}

fn damaged(bucket: &Bucket, digest: &Digest256, fault: String) -> ArtifactError {
    ArtifactError::Damaged {
        digest: digest.clone(),
        path: bucket.path(digest),
        fault,
    }
}
