//! Where artifacts lie in tests: in a folder, and in a bucket of a server that others wrote.
#![allow(dead_code)]

mod holding;
#[path = "../../../../tests/src/s3.rs"]
mod s3;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use object_store::ObjectStoreExt;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use qlora_store::{ArtifactError, ArtifactStore, BucketPlace, Digest256, Owner};
use s3::{BUCKET, S3Server};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub use self::holding::Holding;
use crate::common::owner;

/// The least that the server takes, so that small artifacts have several parts.
pub const PART: usize = 64;

/// A server of S3, for all tests of this program.
pub struct Server(S3Server);

impl Server {
    pub fn get() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(|| {
            let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
            Self(S3Server::start(&tests.join("python/s3_server.py")))
        })
    }

    /// Variables by which the server is reached.
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(&self.0.address)
    }

    /// A way to it on which requests can be held.
    pub async fn holding(&self) -> Holding {
        Holding::before(&self.0.address).await
    }

    /// A client beside the store's.
    pub fn client(&self) -> AmazonS3 {
        AmazonS3Builder::new()
            .with_endpoint(&self.0.address)
            .with_allow_http(true)
            .with_bucket_name(BUCKET)
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .build()
            .expect("a client")
    }

    /// The number of multipart uploads under `prefix` that have neither been completed nor ended.
    pub async fn begun(&self, prefix: &str) -> usize {
        let host = self.0.address.trim_start_matches("http://");
        let mut stream = tokio::net::TcpStream::connect(host)
            .await
            .expect("a server");
        let request =
            format!("GET /{BUCKET}?uploads HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.contains("ListMultipartUploadsResult"), "{answer}");
        // It lists those of all prefixes.
        answer.matches(&format!("<Key>{prefix}/")).count()
    }
}

pub fn variables(address: &str) -> Vec<(String, String)> {
    let all = [
        ("AWS_ENDPOINT_URL", address),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        // What is no setting of the bucket's disturbs nothing.
        ("AWS_PAGER", ""),
        ("HOME", "/"),
    ];
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}

/// A bucket, and a prefix in it that no other test has.
pub fn bucket_place() -> BucketPlace {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    BucketPlace {
        bucket: BUCKET.to_owned(),
        prefix: format!("test/{}", NEXT.fetch_add(1, Ordering::Relaxed)),
        part_bytes: PART,
    }
}

/// An empty store's place.
pub struct Place {
    /// Artifacts lie here, or records of uploads to the bucket.
    pub folder: TempDir,
    pub bucket: Option<BucketPlace>,
}

impl Place {
    pub fn folder() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a folder"),
            bucket: None,
        }
    }

    pub fn bucket() -> Self {
        Self {
            bucket: Some(bucket_place()),
            ..Self::folder()
        }
    }

    pub fn both() -> [Self; 2] {
        [Self::folder(), Self::bucket()]
    }

    pub async fn open(&self) -> ArtifactStore {
        self.open_for(&owner()).await.expect("a store")
    }

    pub async fn open_for(&self, owner: &Owner) -> Result<ArtifactStore, ArtifactError> {
        match &self.bucket {
            None => ArtifactStore::open(self.folder.path(), owner).await,
            Some(place) => {
                let variables = Server::get().variables();
                ArtifactStore::open_bucket(place, owner, self.folder.path(), &variables).await
            }
        }
    }

    /// What the mark holds.
    pub async fn mark(&self) -> String {
        let Some(place) = &self.bucket else {
            return fs::read_to_string(self.folder.path().join("qlora-owner")).expect("a mark");
        };
        let key = format!("{}/qlora-owner", place.prefix).into();
        let found = Server::get().client().get(&key).await.expect("a mark");
        let bytes = found.bytes().await.expect("its bytes");
        String::from_utf8(bytes.to_vec()).expect("a text")
    }

    /// Writes the mark, as a person does.
    pub async fn set_mark(&self, text: &str) {
        let Some(place) = &self.bucket else {
            let path = self.folder.path().join("qlora-owner");
            return fs::write(path, text).expect("a mark");
        };
        let key = format!("{}/qlora-owner", place.prefix).into();
        let put = Server::get()
            .client()
            .put(&key, text.to_owned().into())
            .await;
        put.expect("a mark");
    }

    /// Takes the mark away, as a place of an earlier version has none.
    pub async fn unmark(&self) {
        let Some(place) = &self.bucket else {
            return fs::remove_file(self.folder.path().join("qlora-owner")).expect("a mark");
        };
        let key = format!("{}/qlora-owner", place.prefix).into();
        let client = Server::get().client();
        client.delete(&key).await.expect("a mark");
    }

    /// What is left of so many bytes when their upload breaks off.
    pub fn kept(&self, bytes: usize) -> usize {
        match &self.bucket {
            None => bytes,
            Some(place) => bytes / place.part_bytes * place.part_bytes,
        }
    }

    /// Where an artifact lies, under the folder or in the bucket.
    fn path(&self, digest: &Digest256) -> PathBuf {
        let name = digest.to_string();
        let root = match &self.bucket {
            None => self.folder.path(),
            Some(place) => Path::new(&place.prefix),
        };
        root.join("sha256").join(&name[..2]).join(name)
    }

    fn key(&self, digest: &Digest256) -> String {
        self.path(digest).to_string_lossy().into_owned()
    }

    /// Puts `bytes` under the name of another artifact; in a folder so that length and time tell
    /// nothing of it.
    pub async fn damage(&self, digest: &Digest256, bytes: &[u8]) {
        if self.bucket.is_some() {
            let key = self.key(digest).into();
            let client = Server::get().client();
            client
                .put(&key, bytes.to_vec().into())
                .await
                .expect("an object");
            return;
        }
        let path = self.path(digest);
        let modified = fs::metadata(&path).and_then(|meta| meta.modified());
        fs::write(&path, bytes).expect("damage");
        set_modified(&path, modified.expect("a time"));
    }

    /// Makes an artifact so many hours older.
    pub fn age(&self, digest: &Digest256, hours: u64) {
        if self.bucket.is_some() {
            Server::get().0.age(&self.key(digest), hours);
        } else {
            let then = SystemTime::now() - Duration::from_secs(hours * 3600);
            set_modified(&self.path(digest), then);
        }
    }

    /// What uploads have left that are not complete: files, or uploads in the bucket. Each of those
    /// has a record of its own.
    pub async fn begun(&self) -> usize {
        let Some(place) = &self.bucket else {
            return files(&self.folder.path().join("partial"));
        };
        let begun = Server::get().begun(&place.prefix).await;
        assert_eq!(
            files(self.folder.path()),
            begun,
            "records, and uploads in the bucket"
        );
        begun
    }
}

fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

fn set_modified(path: &Path, time: SystemTime) {
    let file = fs::File::options().append(true).open(path).expect("a file");
    file.set_modified(time).expect("a time");
}
