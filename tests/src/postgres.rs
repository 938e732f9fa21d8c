//! A PostgreSQL server of a test's own, in a temporary folder, on a socket that nobody else has.
//!
//! It is Debian's `postgresql`, which tests/env installs; without it the tests fail.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// Where Debian keeps the programs of each release.
const DEBIAN: &str = "/usr/lib/postgresql";
/// Users that the server may run as where the tests run as root: it refuses root.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// A server, which is stopped and removed when it is dropped.
pub struct Postgres {
    folder: TempDir,
    user: Option<User>,
}

#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl Postgres {
    /// Makes and starts a server.
    ///
    /// # Panics
    /// PostgreSQL is not installed, or does not start.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Another user has to get to the folders below.
        let open = Permissions::from_mode(0o711);
        fs::set_permissions(folder.path(), open).expect("a folder for all");
        let user = is_root().then(user);
        let made = Self { folder, user };
        for name in ["data", "run"] {
            let path = made.folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            if let Some(User { uid, gid }) = made.user {
                chown(&path, Some(uid), Some(gid)).expect("a folder of the server's user");
            }
        }
        let data = made.data();
        made.run(
            "initdb",
            &[
                "-D",
                &data,
                "-U",
                "qlora",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C",
                "--no-sync",
            ],
        );
        made.restart();
        made
    }

    /// Starts the server again after [`Self::stop`]; returns once it takes connections.
    ///
    /// # Panics
    /// It does not start.
    pub fn restart(&self) {
        let (data, log) = (self.data(), self.path("run/log"));
        let options = format!(
            "-k {} -c listen_addresses='' -c max_connections=60",
            self.socket()
        );
        self.run(
            "pg_ctl",
            &["-D", &data, "-w", "-l", &log, "-o", &options, "start"],
        );
    }

    /// Ends the server as a power failure would: nothing is written any more.
    ///
    /// # Panics
    /// It does not run.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "stop"]);
    }

    /// Makes an empty database, and gives its URL.
    ///
    /// # Panics
    /// There is one of this name.
    pub fn database(&self, name: &str) -> String {
        self.run("createdb", &["-h", &self.socket(), "-U", "qlora", name]);
        self.url(name)
    }

    /// The URL of a database.
    pub fn url(&self, name: &str) -> String {
        let run = self.socket().replace('/', "%2F");
        format!("postgres://qlora@{run}/{name}")
    }

    /// Runs one of PostgreSQL's programs as the server's user, and gives what it writes.
    ///
    /// # Panics
    /// It fails.
    pub fn run(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(program, args).output().expect(program);
        let said = || {
            let log = fs::read_to_string(self.path("run/log")).unwrap_or_default();
            format!("{}{log}", String::from_utf8_lossy(&stderr))
        };
        assert!(status.success(), "{program} {args:?}: {}", said());
        stdout
    }

    /// What the server starts with must not come from whoever runs the tests.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let path = programs().join(program);
        let mut command = match self.user {
            Some(User { uid, gid }) => {
                let mut command = Command::new("setpriv");
                command
                    .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                    .arg("--clear-groups")
                    .arg(path);
                command
            }
            None => Command::new(path),
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C")
            .current_dir(self.folder.path())
            .args(args);
        command
    }

    /// The folder of the socket, as PostgreSQL's programs take it for a host.
    pub fn socket(&self) -> String {
        self.path("run")
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn data(&self) -> String {
        self.path("data")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A test that fails drops it as well: nothing here may fail once more.
        if Path::new(&self.path("data/postmaster.pid")).exists() {
            let stop = ["-D", &self.data(), "-m", "immediate", "stop"];
            let _ = self.command("pg_ctl", &stop).output();
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The first of the users that this machine has.
fn user() -> User {
    let known = fs::read_to_string("/etc/passwd").expect("users");
    let find = |name: &str| {
        let line = known
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2).map(str::parse);
        let (Some(Ok(uid)), Some(Ok(gid))) = (fields.next(), fields.next()) else {
            return None;
        };
        Some(User { uid, gid })
    };
    USERS
        .iter()
        .find_map(|name| find(name))
        .unwrap_or_else(|| panic!("none of {USERS:?} is a user"))
}

/// The folder of the newest release's programs.
fn programs() -> PathBuf {
    let releases = fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let newest = releases
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max();
    let newest = newest.unwrap_or_else(|| {
        panic!("{DEBIAN} has no release; `. tests/env` installs Debian's postgresql")
    });
    Path::new(DEBIAN).join(newest.to_string()).join("bin")
}
