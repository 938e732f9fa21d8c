//! The record of a multipart upload: a local file of one line for the upload and one for each part
//! that the bucket has acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::hash::{BLOCK, Midstate};
use crate::artifacts::digest::Digest256;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// The bucket and the prefix: with others the record is of no use.
    place: String,
    upload: String,
    part_bytes: usize,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    part: String,
    /// Of the hash, after this part.
    state: String,
}

/// A multipart upload that has begun.
#[derive(Debug)]
pub(super) struct Record {
    pub digest: Digest256,
    /// By which the bucket knows it.
    pub upload: String,
    /// Of every part but the last.
    pub part_bytes: usize,
    /// As the bucket calls them.
    pub parts: Vec<String>,
    /// Of the hash, after these parts.
    pub state: Midstate,
    pub since: SystemTime,
    path: PathBuf,
    file: File,
}

/// What a file in the folder of records is.
#[derive(Debug)]
pub(super) enum Read {
    Record(Box<Record>),
    /// Of another bucket or prefix.
    Elsewhere(String),
    /// Broken off before the first line was complete: no part was sent yet.
    Nothing,
}

impl Record {
    /// Makes the record of an upload durable, before its first part is sent.
    pub fn create(
        path: PathBuf,
        place: &str,
        digest: &Digest256,
        upload: String,
        part_bytes: usize,
    ) -> io::Result<Self> {
        let file = OpenOptions::new()
            .create_new(true)
            .append(true)
            .open(&path)?;
        let mut record = Self {
            digest: digest.clone(),
            upload,
            part_bytes,
            parts: Vec::new(),
            state: Midstate::start(),
            since: SystemTime::now(),
            path,
            file,
        };
        let head = Head {
            place: place.to_owned(),
            upload: record.upload.clone(),
            part_bytes,
        };
        record.append(&head)?;
        if let Some(folder) = record.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(record)
    }

    /// Reads the record at `path`. A line that was not written to its end does not count, and goes.
    pub fn read(path: &Path, digest: Digest256, place: &str) -> io::Result<Read> {
        let text = fs::read(path)?;
        let mut lines = text.split_inclusive(|byte| *byte == b'\n');
        let head = lines.next().filter(|line| line.ends_with(b"\n"));
        let Some((first, head)) = head.and_then(|line| {
            let head: Head = serde_json::from_slice(line).ok()?;
            Some((line, head))
        }) else {
            return Ok(Read::Nothing);
        };
        if head.place != place {
            return Ok(Read::Elsewhere(head.place));
        }
        if head.part_bytes == 0 || !head.part_bytes.is_multiple_of(BLOCK) {
            return Ok(Read::Nothing);
        }
        let (mut parts, mut state, mut length) = (Vec::new(), Midstate::start(), first.len());
        for line in lines {
            let whole = line
                .ends_with(b"\n")
                .then(|| serde_json::from_slice(line).ok());
            let read = whole.flatten().and_then(|read: Line| {
                let state = Midstate::of_text(&read.state)?;
                Some((read.part, state))
            });
            let Some((part, after)) = read else { break };
            parts.push(part);
            state = after;
            length += line.len();
        }
        let file = OpenOptions::new().append(true).open(path)?;
        let known = file.metadata()?;
        let since = known.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        // To cut a file makes it new, also to the length that it has; a record keeps its age.
        if known.len() != length as u64 {
            file.set_len(length as u64)?;
        }
        Ok(Read::Record(Box::new(Self {
            digest,
            upload: head.upload,
            part_bytes: head.part_bytes,
            parts,
            state,
            since,
            path: path.to_owned(),
            file,
        })))
    }

    /// The bucket has acknowledged `part`, after which the hash is in `state`.
    pub fn add(&mut self, part: String, state: Midstate) -> io::Result<()> {
        self.append(&Line {
            part: part.clone(),
            state: state.text(),
        })?;
        self.parts.push(part);
        self.state = state;
        self.since = SystemTime::now();
        Ok(())
    }

    /// Bytes that the bucket has.
    pub fn bytes(&self) -> u64 {
        self.parts.len() as u64 * self.part_bytes as u64
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The upload is over.
    pub fn remove(self) {
        if let Err(e) = fs::remove_file(&self.path) {
            tracing::warn!(
                "{} of an upload cannot be removed: {e}",
                self.path.display()
            );
        }
    }

    fn append(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path, digest: &Digest256) -> Read {
        Record::read(path, digest.clone(), "s3://b").expect("a file")
    }

    #[test]
    fn a_record_is_read_as_it_was_written_wherever_its_writing_broke_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest: Digest256 = "0".repeat(64).parse().expect("a digest");
        let path = folder.path().join("record");
        let mut record =
            Record::create(path.clone(), "s3://b", &digest, "id".into(), 128).expect("a record");
        let mut states = vec![record.state];
        let mut lengths = vec![fs::metadata(&path).expect("a file").len()];
        for part in ["\"one\"", "two"] {
            let mut state = record.state;
            state.update(&[lengths.len() as u8; BLOCK]);
            record.add(part.into(), state).expect("a line");
            states.push(state);
            lengths.push(fs::metadata(&path).expect("a file").len());
        }
        let whole = fs::read(&path).expect("a file");
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).expect("a file");
            let lines = lengths.iter().filter(|at| **at <= length as u64).count();
            let (Read::Record(mut record), Some(parts)) =
                (read(&path, &digest), lines.checked_sub(1))
            else {
                assert_eq!(lines, 0, "{length} bytes");
                continue;
            };
            assert_eq!(record.parts, ["\"one\"", "two"][..parts], "{length} bytes");
            assert_eq!(
                (record.bytes(), record.state),
                (parts as u64 * 128, states[parts])
            );
            // What is written next does not follow half a line.
            record.add("next".into(), states[0]).expect("a line");
            let Read::Record(again) = read(&path, &digest) else {
                panic!("{length} bytes: the record is gone");
            };
            assert_eq!(
                (again.parts.len(), again.upload.as_str()),
                (parts + 1, "id")
            );
        }
        fs::write(&path, &whole).expect("a file");
        let elsewhere = Record::read(&path, digest, "s3://other").expect("a file");
        assert!(matches!(elsewhere, Read::Elsewhere(place) if place == "s3://b"));
    }

    #[test]
    fn a_record_that_is_read_again_is_as_old_as_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let digest: Digest256 = "0".repeat(64).parse().expect("a digest");
        let path = folder.path().join("record");
        let record = Record::create(path.clone(), "s3://b", &digest, "id".into(), 128);
        let record = record.expect("a record");
        let old = SystemTime::now() - std::time::Duration::from_secs(7 * 86_400);
        record.file.set_modified(old).expect("a time");
        for _ in 0..2 {
            let Read::Record(again) = read(&path, &digest) else {
                panic!("the record is gone");
            };
            assert_eq!(again.since, old);
        }
    }
}
