//! A server of S3 that others wrote, for tests of artifacts in a bucket.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The one bucket that it has.
pub const BUCKET: &str = "artifacts";

/// A server that ends with this value, and with the process that started it.
pub struct S3Server {
    /// As `AWS_ENDPOINT_URL` has it.
    pub address: String,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
    child: Child,
}

impl S3Server {
    /// Starts `tests/python/s3_server.py`, which lies at `script`.
    ///
    /// # Panics
    /// It does not start.
    pub fn start(script: &Path) -> Self {
        let python = std::env::var("QLORA_TEST_PYTHON").expect(
            "QLORA_TEST_PYTHON is not set: use `just test` or tests/run, which install what this test needs",
        );
        let mut child = Command::new(python)
            .arg(script)
            .arg(BUCKET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a server");
        let input = child.stdin.take().expect("an input");
        let mut output = BufReader::new(child.stdout.take().expect("an output"));
        let mut address = String::new();
        output.read_line(&mut address).expect("an address");
        assert!(
            address.starts_with("http://"),
            "the server ended: {address:?}"
        );
        Self {
            address: address.trim().to_owned(),
            pipes: Mutex::new((input, output)),
            child,
        }
    }

    /// Makes the object `key` so many hours older.
    ///
    /// # Panics
    /// There is no such object.
    pub fn age(&self, key: &str, hours: u64) {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let (input, output) = &mut *pipes;
        writeln!(input, "age {key} {hours}").expect("a server");
        let mut answer = String::new();
        output.read_line(&mut answer).expect("an answer");
        assert_eq!(answer, "done\n");
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
