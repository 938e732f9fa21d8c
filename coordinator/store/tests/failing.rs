//! Every write to the disk fails once, and the disk is full for a while: what was acknowledged is
//! there, everything else is not, and the next try succeeds. The tests use the real SQLite and the
//! real file system calls. A process with a failing disk does the work and checks each
//! acknowledgment over a second connection; another process checks afterwards.
#![cfg(target_os = "linux")]

mod common;
#[path = "disk/mod.rs"]
mod disk;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use common::{digest, entry, job, line, owner, point};
use disk::Disk;
use qlora_engine::JobId;
use qlora_store::*;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

/// Tries within which a disk that fails once must have been got over.
const TRIES: usize = 3;

/// What the process does.
#[derive(Clone, Copy, PartialEq)]
enum Work {
    /// A few small batches.
    Small,
    /// So much that the log is written back into the database.
    Large,
    /// Goes on while the disk is full, and when it has room again.
    Full,
}

impl Work {
    fn word(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Large => "large",
            Self::Full => "full",
        }
    }

    fn batches(self) -> u64 {
        if self == Self::Large { 12 } else { 3 }
    }

    fn text(self, i: u64) -> String {
        let bytes = if self == Self::Large { 500_000 } else { 20 };
        format!("{i} ").repeat(bytes / 2)
    }

    fn artifact(i: u64) -> Vec<u8> {
        Self::Small.text(i + 100).repeat(40).into_bytes()
    }

    fn batch(self, i: u64) -> Vec<Write> {
        let text = self.text(i);
        vec![
            Write::SaveJob(Box::new(job(i))),
            Write::Metrics {
                job: JobId(i),
                points: vec![point(1), point(2)],
            },
            Write::Logs {
                job: JobId(i),
                lines: vec![line(&text), line("b")],
            },
            Write::Journal(entry(&i.to_string())),
        ]
    }
}

/// A folder whose files may be on the disk that fails; in memory where there is such a file system.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

// ---- the process with the disk that fails

/// Works, in the folder and as the environment says.
#[tokio::test]
#[ignore = "started by the others, with a disk that fails"]
async fn the_work() {
    let Ok(folder) = std::env::var("DISK_WORK_IN").map(PathBuf::from) else {
        return;
    };
    let work = match std::env::var("DISK_WORK").expect("what to do").as_str() {
        "small" => Work::Small,
        "large" => Work::Large,
        _ => Work::Full,
    };
    let mut worker = Worker::start(folder, work).await;
    for i in 1..=work.batches() {
        worker.batch(i).await;
        worker.artifact(i).await;
    }
    worker.config(1).await;
    if work == Work::Full {
        worker.without_room().await;
        for i in 10..20 {
            worker.batch(i).await;
        }
        worker.artifact(10).await;
        worker.config(10).await;
    }
}

struct Worker {
    work: Work,
    folder: PathBuf,
    store: SqliteStore,
    artifacts: ArtifactStore,
}

impl Worker {
    async fn start(folder: PathBuf, work: Work) -> Self {
        let state = folder.join("state");
        let mut faults = Vec::new();
        for _ in 0..TRIES {
            let store = SqliteStore::open(&state)
                .await
                .map_err(|e| faults.push(e.to_string()));
            let artifacts = ArtifactStore::open(&state.join("artifacts"), &owner())
                .await
                .map_err(|e| faults.push(e.to_string()));
            if let (Ok(store), Ok(artifacts)) = (store, artifacts) {
                return Self {
                    work,
                    folder,
                    store,
                    artifacts,
                };
            }
        }
        panic!("no start: {faults:?}");
    }

    /// A connection that has written nothing.
    async fn second(&self) -> SqliteConnection {
        let path = self.folder.join("state/qlora.db");
        SqliteConnectOptions::new()
            .filename(path)
            .read_only(true)
            .connect()
            .await
            .expect("a second connection")
    }

    async fn count(&self, sql: &'static str, id: impl ToString) -> i64 {
        let mut second = self.second().await;
        let found = sqlx::query_scalar(sql)
            .bind(id.to_string())
            .fetch_one(&mut second)
            .await
            .expect("a count");
        second.close().await.expect("an end");
        found
    }

    /// Rows of job `i` that a second connection sees, of each table.
    async fn seen(&self, i: u64) -> [i64; 4] {
        [
            self.count("SELECT COUNT(*) FROM jobs WHERE id = CAST(? AS INTEGER)", i)
                .await,
            self.count(
                "SELECT COUNT(*) FROM metrics WHERE job = CAST(? AS INTEGER)",
                i,
            )
            .await,
            self.count(
                "SELECT COUNT(*) FROM logs WHERE job = CAST(? AS INTEGER)",
                i,
            )
            .await,
            self.count("SELECT COUNT(*) FROM journal WHERE kind = ?", i)
                .await,
        ]
    }

    fn acknowledged(&self, what: impl std::fmt::Display) {
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.join("acknowledged"));
        writeln!(file.expect("a file"), "{what}").expect("a line");
    }

    async fn batch(&self, i: u64) {
        for _ in 0..TRIES {
            if self.try_batch(i).await.is_ok() {
                return self.acknowledged(format!("job {i}"));
            }
        }
        panic!("batch {i} is never stored");
    }

    /// Tries to store a batch, and holds what a second connection sees against what is said.
    async fn try_batch(&self, i: u64) -> Result<(), StoreError> {
        match self.store.apply(self.work.batch(i)).await {
            Ok(entries) => {
                assert_eq!(entries.len(), 1);
                assert_eq!(
                    self.seen(i).await,
                    [1, 2, 2, 1],
                    "batch {i} was acknowledged and is not there"
                );
                Ok(())
            }
            Err(fault) => {
                let certain = matches!(
                    fault,
                    StoreError::NotWritten { .. } | StoreError::DiskFull { .. }
                );
                assert!(certain, "{fault}");
                assert_eq!(
                    self.seen(i).await,
                    [0; 4],
                    "batch {i} was refused and is there: {fault}"
                );
                Err(fault)
            }
        }
    }

    async fn config(&self, i: u64) {
        for _ in 0..TRIES {
            if self.try_config(i).await.is_ok() {
                return self.acknowledged(format!("config {i}"));
            }
        }
        panic!("configuration {i} is never stored");
    }

    async fn try_config(&self, i: u64) -> Result<(), StoreError> {
        let made = self
            .store
            .put_config(&i.to_string(), "text", "hash", 1, None)
            .await;
        let seen = self
            .count("SELECT COUNT(*) FROM configs WHERE name = ?", i)
            .await;
        assert_eq!(seen, i64::from(made.is_ok()), "configuration {i}: {made:?}");
        made.map(drop)
    }

    async fn artifact(&self, i: u64) {
        let bytes = Work::artifact(i);
        for _ in 0..=TRIES {
            if self.try_artifact(&bytes).await.is_ok() {
                return self.acknowledged(format!("artifact {i}"));
            }
        }
        panic!("artifact {i} is never stored");
    }

    /// Goes on where the last try broke off, as a client does.
    async fn try_artifact(&self, bytes: &[u8]) -> Result<(), ArtifactError> {
        let digest = digest(bytes);
        let stat = self.artifacts.stat(&digest).await?;
        if stat.complete {
            return Ok(());
        }
        let mut upload = self
            .artifacts
            .upload(&digest, bytes.len() as u64, stat.size)
            .await?;
        for piece in bytes[stat.size as usize..].chunks(bytes.len().div_ceil(3)) {
            upload.write(piece.to_vec()).await?;
        }
        upload.finish().await?.publish().await?;
        let path = self
            .folder
            .join("state/artifacts/sha256")
            .join(&digest.to_string()[..2])
            .join(digest.to_string());
        assert_eq!(
            fs::read(path).expect("a file"),
            bytes,
            "it was acknowledged and is not there"
        );
        Ok(())
    }

    /// Nothing is acknowledged while the disk is full, over and over; what was there stays
    /// readable.
    async fn without_room(&mut self) {
        let full = PathBuf::from(std::env::var("DISK_FULL").expect("a file"));
        fs::write(&full, "").expect("a file");
        for i in 100..106 {
            let refused = self.try_batch(i).await;
            assert!(
                matches!(refused, Err(StoreError::DiskFull { .. })),
                "{refused:?}"
            );
            let refused = self.try_config(i).await;
            assert!(
                matches!(refused, Err(StoreError::DiskFull { .. })),
                "{refused:?}"
            );
            let refused = self.try_artifact(&Work::artifact(i)).await;
            assert!(
                matches!(refused, Err(ArtifactError::DiskFull { .. })),
                "{refused:?}"
            );
            assert_eq!(
                self.store.load().await.expect("jobs").jobs.len() as u64,
                self.work.batches()
            );
        }
        let left = fs::read_dir(self.folder.join("state/artifacts/partial"))
            .expect("a folder")
            .count();
        assert_eq!(left, 0, "what is of no use keeps the disk full");
        fs::remove_file(&full).expect("a file");
    }
}

// ---- the others

/// Lets a process work with `disk` and the variables `env`.
fn run(disk: &Disk, folder: &Path, work: Work, env: &[(&str, String)]) -> (ExitStatus, String) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["the_work", "--exact", "--ignored", "--nocapture"])
        .envs(disk.env())
        .env("DISK_WORK_IN", folder)
        .env("DISK_WORK", work.word())
        .envs(env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .output()
        .expect("a process");
    let text = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&text).into_owned())
}

/// Holds what an orderly start finds against what was acknowledged; returns how much that was.
async fn check(folder: &Path, work: Work, what: &str) -> usize {
    let acknowledged = fs::read_to_string(folder.join("acknowledged")).unwrap_or_default();
    let state = folder.join("state");
    let store = SqliteStore::open(&state)
        .await
        .unwrap_or_else(|e| panic!("{what}: no start: {e}"));
    let artifacts = ArtifactStore::open(&state.join("artifacts"), &owner())
        .await
        .expect("artifacts");
    let stored = store.load().await.expect("jobs");
    assert!(stored.unreadable.is_empty(), "{what}");
    for line in acknowledged.lines() {
        let (kind, id) = line.split_once(' ').expect("a kind and a number");
        let id: u64 = id.parse().expect("a number");
        match kind {
            "job" => {
                assert!(
                    stored.jobs.iter().any(|job| job.id == JobId(id)),
                    "{what}: {line} is lost"
                );
                assert_eq!(
                    store
                        .metrics(JobId(id), 0, 10)
                        .await
                        .expect("metrics")
                        .len(),
                    2,
                    "{what}: {line}"
                );
                let lines = store.logs(JobId(id), 0, 10).await.expect("logs");
                assert_eq!(
                    (lines.len(), &lines[0].text),
                    (2, &work.text(id)),
                    "{what}: {line}"
                );
            }
            "config" => assert!(
                store.config(&id.to_string(), 0).await.is_ok(),
                "{what}: {line} is lost"
            ),
            _ => {
                let bytes = Work::artifact(id);
                let stat = artifacts.stat(&digest(&bytes)).await.expect("a stat");
                assert!(
                    stat.complete && stat.size == bytes.len() as u64,
                    "{what}: {line} is lost: {stat:?}"
                );
            }
        }
    }
    assert!(
        stored.jobs.iter().all(|job| stored.reserved.job >= job.id),
        "{what}: {:?}",
        stored.reserved
    );
    drop(store);
    sound(&state, what).await;
    acknowledged.lines().count()
}

async fn sound(state: &Path, what: &str) {
    let options = SqliteConnectOptions::new().filename(state.join("qlora.db"));
    let mut connection = options.connect().await.expect("a database");
    let found: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .expect("a check");
    assert_eq!(found, "ok", "{what}");
}

/// Lets the `n`-th write fail for `n` of `numbers`, until there are no more writes; returns how
/// many failed.
async fn each_fails_once(
    work: Work,
    numbers: impl Iterator<Item = u64>,
    how: &[(&str, String)],
) -> u64 {
    let disk = Disk::new("/state");
    let killed = how.iter().any(|(name, _)| *name == "DISK_KILL");
    let mut failed = 0;
    for n in numbers {
        let folder = folder();
        let env: Vec<_> = how
            .iter()
            .cloned()
            .chain([("DISK_FAIL_AT", n.to_string())])
            .collect();
        let what = format!("write {n} of {} with {how:?}", work.word());
        let (status, text) = run(&disk, folder.path(), work, &env);
        let has_failed = disk.has_failed();
        assert_eq!(
            status.success(),
            !(killed && has_failed),
            "{what}: {status}\n{text}"
        );
        let acknowledged = check(folder.path(), work, &what).await;
        let all = 2 * work.batches() as usize + 1;
        assert!(
            acknowledged == all || killed,
            "{what}: {acknowledged} of {all} were acknowledged\n{text}"
        );
        if !has_failed {
            return failed;
        }
        failed += 1;
    }
    failed
}

fn errno(code: i32) -> [(&'static str, String); 1] {
    [("DISK_ERRNO", code.to_string())]
}

/// Linux's numbers.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[tokio::test]
async fn every_write_fails_once_for_want_of_room() {
    let failed = each_fails_once(Work::Small, 1.., &errno(ENOSPC)).await;
    assert!(failed > 60, "only {failed} writes were made to fail");
}

#[tokio::test]
async fn every_write_fails_once_as_a_broken_disk_does() {
    let failed = each_fails_once(Work::Small, 1.., &errno(EIO)).await;
    assert!(failed > 60, "only {failed} writes were made to fail");
}

#[tokio::test]
async fn the_program_is_killed_in_the_middle_of_every_write() {
    let failed = each_fails_once(Work::Small, 1.., &[("DISK_KILL", "1".into())]).await;
    assert!(failed > 60, "only {failed} writes were made to fail");
}

/// Where the log is written back into the database, at writes that are spread over all of them.
#[tokio::test]
async fn writing_the_log_back_may_fail_too() {
    for how in [errno(ENOSPC), errno(EIO), [("DISK_KILL", "1".into())]] {
        let failed = each_fails_once(Work::Large, (1..).step_by(199), &how).await;
        assert!(failed > 10, "only {failed} writes were made to fail");
    }
}

#[tokio::test]
async fn a_disk_that_was_full_for_a_while_is_got_over() {
    let (disk, folder) = (Disk::new("/state"), folder());
    let (status, text) = run(&disk, folder.path(), Work::Full, &[]);
    assert!(disk.has_failed(), "the disk was never full");
    assert!(status.success(), "{text}");
    assert_eq!(
        check(folder.path(), Work::Full, "a full disk").await,
        7 + 12
    );
}
