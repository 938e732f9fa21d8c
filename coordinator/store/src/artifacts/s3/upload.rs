//! An upload to a bucket in progress.

use std::io;
use std::mem;
use std::sync::Arc;

use object_store::multipart::{MultipartStore, PartId};
use object_store::{Error, ObjectStoreExt, PutPayload};

use super::bucket::{Bucket, tag_of};
use super::fault::BucketFault;
use super::hash::Midstate;
use super::ledger::Object;
use super::open::sending;
use super::record::Record;
use crate::artifacts::blocking::Waits;
use crate::artifacts::digest::Digest256;
use crate::artifacts::error::{ArtifactError, at};

/// An upload in progress; dropping it keeps the parts that the bucket has, for whoever goes on.
pub(in crate::artifacts) struct ObjectUpload {
    digest: Digest256,
    size: u64,
    /// None once a write was given up in its middle.
    own: Option<Own>,
}

/// All bytes are in the bucket or in memory, and are the right ones.
pub(in crate::artifacts) struct FinishedObject {
    own: Own,
    /// The part that is shorter than the others.
    last: Option<String>,
}

/// One upload, and nobody else's.
struct Own {
    bucket: Arc<Bucket>,
    digest: Digest256,
    size: u64,
    part_bytes: usize,
    /// What came since the last part.
    tail: Vec<u8>,
    /// None before the first part.
    record: Option<Record>,
}

impl ObjectUpload {
    pub fn open(
        bucket: Arc<Bucket>,
        digest: &Digest256,
        size: u64,
        offset: u64,
    ) -> Result<Self, ArtifactError> {
        let record = if offset == 0 {
            None
        } else {
            let wrong = |expected| wrong_offset(digest, expected, offset);
            Some(bucket.resting.take(digest, offset).map_err(wrong)?)
        };
        let part_bytes = match &record {
            Some(record) => record.part_bytes,
            None => bucket.part_bytes(digest, size)?,
        };
        let own = Own {
            bucket,
            digest: digest.clone(),
            size,
            part_bytes,
            tail: Vec::new(),
            record,
        };
        Ok(Self {
            digest: digest.clone(),
            size,
            own: Some(own),
        })
    }

    /// Takes the next bytes; full parts of them are in the bucket when it returns.
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), ArtifactError> {
        let received = self.received();
        let own = self.take()?;
        if received + bytes.len() as u64 > self.size {
            own.end().await;
            return Err(ArtifactError::TooLong {
                digest: self.digest.clone(),
                size: self.size,
            });
        }
        // One that has failed ends here, and leaves what it has to the next.
        self.own = Some(own.take_in(&bytes).await?);
        Ok(())
    }

    pub fn received(&self) -> u64 {
        self.own.as_ref().map_or(0, Own::received)
    }

    /// Checks that all bytes came and are right, and sends the last part.
    pub async fn finish(mut self) -> Result<FinishedObject, ArtifactError> {
        let (size, received) = (self.size, self.received());
        let own = self.take()?;
        if received < size {
            return Err(ArtifactError::TooShort {
                digest: self.digest.clone(),
                size,
                received,
            });
        }
        own.check().await?.send_last().await
    }

    fn take(&mut self) -> Result<Own, ArtifactError> {
        self.own
            .take()
            .ok_or_else(|| wrong_offset(&self.digest, 0, 0))
    }
}

impl FinishedObject {
    /// Gives the artifact its final name.
    pub async fn publish(self) -> Result<(), ArtifactError> {
        let Self { mut own, last } = self;
        let key = own.bucket.key(&own.digest);
        let put = match &own.record {
            None => {
                let payload = PutPayload::from(mem::take(&mut own.tail));
                sending(own.size, own.bucket.sender.put(&key, payload)).await
            }
            Some(record) => {
                let parts = record.parts.iter().cloned().chain(last);
                let parts = parts.map(|content_id| PartId { content_id }).collect();
                let client = &own.bucket.client;
                client.complete_multipart(&key, &record.upload, parts).await
            }
        };
        let put = put.map_err(|e| own.refused(&e))?;
        let object = Object {
            bytes: own.size,
            tag: tag_of(put.e_tag.as_deref()),
        };
        own.bucket.ledger.judge(&own.digest, &object, true);
        if let Some(record) = own.record.take() {
            record.remove();
        }
        Ok(())
    }

    /// Throws the bytes away.
    pub async fn discard(self) {
        self.own.end().await;
    }
}

impl Own {
    fn received(&self) -> u64 {
        self.record.as_ref().map_or(0, Record::bytes) + self.tail.len() as u64
    }

    /// Whether one part has all of it, which is then put as a whole.
    fn is_small(&self) -> bool {
        self.record.is_none() && self.size <= self.part_bytes as u64
    }

    fn state(&self) -> Midstate {
        self.record
            .as_ref()
            .map_or(Midstate::start(), |record| record.state)
    }

    async fn take_in(mut self, mut bytes: &[u8]) -> Result<Self, ArtifactError> {
        loop {
            let room = self.part_bytes - self.tail.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.tail.extend_from_slice(now);
            bytes = later;
            if self.tail.len() < self.part_bytes || self.is_small() {
                return Ok(self);
            }
            self = self.send_part().await?;
        }
    }

    /// Hashes the full part, sends it on, and records that the bucket has it.
    async fn send_part(mut self) -> Result<Self, ArtifactError> {
        let digest = self.digest.clone();
        let mut state = self.state();
        let part = mem::take(&mut self.tail);
        let hash = move || {
            state.update(&part);
            (part, state)
        };
        let (part, state) = Waits::Thread.run_for(&digest, hash).await?;
        let own = if self.record.is_none() {
            // To its end, whoever waits: what the bucket has begun and nobody knows of costs money.
            let begun = tokio::spawn(self.begin()).await;
            begun.map_err(|e| at(digest.as_str().as_ref())(io::Error::other(e)))??
        } else {
            self
        };
        let (mut own, part) = own.put(part).await?;
        let record = move || {
            let added = match &mut own.record {
                Some(record) => {
                    let named = at(record.path());
                    record.add(part, state).map_err(named)
                }
                None => Err(own.is_gone()),
            };
            (own, added)
        };
        let (own, added) = Waits::Thread.run_for(&digest, record).await?;
        if let Err(fault) = added {
            // Half a line may be in the record, so nobody can go on with it.
            own.end().await;
            return Err(fault);
        }
        Ok(own)
    }

    /// Begins the upload in the bucket, and records it before anything is sent.
    async fn begin(mut self) -> Result<Self, ArtifactError> {
        let key = self.bucket.key(&self.digest);
        let upload = self.bucket.client.create_multipart(&key).await;
        let upload = upload.map_err(|e| self.bucket.failed(&e))?;
        let path = self.bucket.resting.new_path(&self.digest);
        let create = {
            let (path, place, upload) = (path.clone(), self.bucket.name(), upload.clone());
            let (digest, part_bytes) = (self.digest.clone(), self.part_bytes);
            move || Record::create(path, &place, &digest, upload, part_bytes)
        };
        match Waits::Thread.run_for(&self.digest, create).await? {
            Ok(record) => {
                self.record = Some(record);
                Ok(self)
            }
            Err(e) => {
                // Nothing was sent, so it takes no room where this fails too.
                let aborted = self.bucket.client.abort_multipart(&key, &upload).await;
                if let Err(e) = aborted {
                    tracing::warn!("{}", self.bucket.failed(&e));
                }
                Err(at(&path)(e))
            }
        }
    }

    /// Sends `part`; by what the bucket calls it.
    async fn put(mut self, part: Vec<u8>) -> Result<(Self, String), ArtifactError> {
        let key = self.bucket.key(&self.digest);
        let Some(record) = &self.record else {
            return Err(self.is_gone());
        };
        let (upload, number) = (record.upload.clone(), record.parts.len());
        let (bytes, payload) = (part.len() as u64, PutPayload::from(part));
        let put = self.bucket.sender.put_part(&key, &upload, number, payload);
        match sending(bytes, put).await {
            Ok(PartId { content_id }) => Ok((self, content_id)),
            Err(e) => Err(self.refused(&e)),
        }
    }

    /// Checks the hash of all that came.
    async fn check(mut self) -> Result<Self, ArtifactError> {
        let digest = self.digest.clone();
        let before = self.received() - self.tail.len() as u64;
        let (state, tail) = (self.state(), mem::take(&mut self.tail));
        let hash = move || (state.finish(before, &tail), tail);
        let (found, tail) = Waits::Thread.run_for(&digest, hash).await?;
        self.tail = tail;
        if found == digest.as_str() {
            return Ok(self);
        }
        self.end().await;
        Err(ArtifactError::Mismatch { digest, found })
    }

    /// Sends what is left after the last full part. It is in no record: who goes on sends it again.
    async fn send_last(mut self) -> Result<FinishedObject, ArtifactError> {
        if self.record.is_none() || self.tail.is_empty() {
            return Ok(FinishedObject {
                own: self,
                last: None,
            });
        }
        let tail = mem::take(&mut self.tail);
        let (own, last) = self.put(tail).await?;
        Ok(FinishedObject {
            own,
            last: Some(last),
        })
    }

    /// What a refusal means. The bucket may have ended the upload: a rule of its owner's does so,
    /// and so does a completion whose answer was lost.
    fn refused(&mut self, error: &Error) -> ArtifactError {
        let is_ended = matches!(error, Error::NotFound { .. })
            && !matches!(BucketFault::of(error), BucketFault::NoBucket);
        let gone = self.is_gone();
        match self.record.take_if(|_| is_ended) {
            Some(record) => {
                record.remove();
                gone
            }
            None => self.bucket.failed(error),
        }
    }

    fn is_gone(&self) -> ArtifactError {
        wrong_offset(&self.digest, 0, self.received())
    }

    /// Throws away what came.
    async fn end(mut self) {
        if let Some(record) = self.record.take() {
            self.bucket.end(record).await;
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            self.bucket.rest(record);
        }
    }
}

fn wrong_offset(digest: &Digest256, expected: u64, offset: u64) -> ArtifactError {
    ArtifactError::Offset {
        digest: digest.clone(),
        expected,
        offset,
    }
}
