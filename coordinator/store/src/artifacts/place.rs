//! Where artifacts lie, as a person names it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A part of an upload to a bucket, where nothing asks for a larger one: S3 takes no smaller one
/// than 5 MiB, but for the last.
const PART_BYTES: usize = 8 << 20;

/// A folder of this machine, or a place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactPlace {
    Folder(PathBuf),
    Bucket(BucketPlace),
}

/// A bucket of S3, or of what speaks as S3 does, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    pub bucket: String,
    /// Without slashes at its ends; empty for the whole bucket.
    pub prefix: String,
    /// What an upload keeps in memory before it is sent on, a multiple of 64.
    pub part_bytes: usize,
}

/// Why a text names no place.
#[derive(Debug, thiserror::Error)]
pub enum InvalidPlace {
    #[error("`{0}` names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX")]
    NoBucket(String),
    #[error("artifacts lie in a folder or under s3://BUCKET/PREFIX, not under `{0}://`")]
    Scheme(String),
    #[error("the place of the artifacts is empty; give a folder or s3://BUCKET/PREFIX")]
    Empty,
}

impl FromStr for ArtifactPlace {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        if text.is_empty() {
            return Err(InvalidPlace::Empty);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::Folder(text.into()));
        };
        if scheme != "s3" {
            return Err(InvalidPlace::Scheme(scheme.to_owned()));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || !bucket.chars().all(is_of_a_name) {
            return Err(InvalidPlace::NoBucket(text.to_owned()));
        }
        let names: Vec<&str> = prefix.split('/').filter(|name| !name.is_empty()).collect();
        Ok(Self::Bucket(BucketPlace {
            bucket: bucket.to_owned(),
            prefix: names.join("/"),
            part_bytes: PART_BYTES,
        }))
    }
}

impl fmt::Display for ArtifactPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(bucket) => bucket.fmt(f),
        }
    }
}

impl fmt::Display for BucketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        match self.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(f, "/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_folder_or_a_bucket_with_or_without_a_prefix() {
        for (text, shown) in [
            ("s3://b", "s3://b"),
            ("s3://b/", "s3://b"),
            ("s3://my.bucket-1/a//b/", "s3://my.bucket-1/a/b"),
        ] {
            match text.parse::<ArtifactPlace>() {
                Ok(ArtifactPlace::Bucket(place)) => assert_eq!(place.to_string(), shown),
                other => panic!("{text}: {other:?}"),
            }
        }
        for folder in ["/var/artifacts", "artifacts", "s3:/b"] {
            assert_eq!(
                folder.parse::<ArtifactPlace>().expect(folder),
                ArtifactPlace::Folder(folder.into())
            );
        }
    }

    #[test]
    fn another_place_is_refused_with_those_that_there_are() {
        for text in [
            "",
            "s3://",
            "s3:///prefix",
            "s3://b ucket",
            "gs://b",
            "file:///x",
        ] {
            let fault = text.parse::<ArtifactPlace>().expect_err(text).to_string();
            assert!(fault.contains("s3://BUCKET"), "{fault}");
        }
    }
}
