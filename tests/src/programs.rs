//! Running programs, and the command line that talks to them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use qlora_client::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::built::{launch, launch_through};
use crate::fixture::{conversations, tiny_model};
use crate::link::Link;

/// The longest that anything here may take on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until `f` gives something.
///
/// # Panics
/// It does not within two minutes.
pub fn wait_until<T>(what: &str, mut f: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(value) = f() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A program that is ended with the test.
pub struct Program {
    child: Child,
    log: PathBuf,
}

impl Program {
    fn start(
        name: &str,
        folder: &Path,
        log: &str,
        args: &[&str],
        env: &[(String, String)],
    ) -> Self {
        Self::start_through(&[], name, (folder, log), args, env)
    }

    /// Starts it by the command `through`, which becomes the program.
    fn start_through(
        through: &[String],
        name: &str,
        (folder, log): (&Path, &str),
        args: &[&str],
        env: &[(String, String)],
    ) -> Self {
        let log = folder.join(log);
        let file = File::create(&log).expect("a log");
        let mut command = launch_through(through, name);
        command
            .args(args)
            .envs(env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file);
        Self {
            child: command.spawn().expect("a program that starts"),
            log,
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("a program that can be killed");
        self.child.wait().expect("its end");
    }

    /// Asks it to stop and gives its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_raw(self.child.id() as i32).expect("a process id");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        self.exit_code()
    }

    /// Waits for its end.
    pub fn exit_code(&mut self) -> Option<i32> {
        wait_until("the end of a program", || {
            self.child.try_wait().expect("a status")
        })
        .code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a call of `qlora-ctl` gave.
pub struct Ctl {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ctl {
    /// Every line of stdout as JSON.
    pub fn json(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.stdout.lines().map(parse).collect()
    }
}

/// Where workers of tests compute, and their jobs want to.
pub fn device() -> String {
    std::env::var("QLORA_TEST_DEVICE").unwrap_or_else(|_| "cpu".into())
}

/// A folder with a coordinator, a small model and data.
pub struct World {
    pub folder: TempDir,
    pub coordinator: Program,
    pub address: String,
    /// Where the coordinator listens.
    listen: String,
    /// Further arguments of the coordinator.
    args: Vec<String>,
    /// Variables that every program gets.
    env: Vec<(String, String)>,
    workers: usize,
    /// Workers that were started, each with a log of its own.
    starts: AtomicUsize,
}

impl World {
    /// Starts a coordinator; `args` are added to its command line.
    pub fn new(args: &[&str]) -> Self {
        Self::with_env(args, &[])
    }

    /// As [`Self::new`]; every program gets the variables `env`.
    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::start("127.0.0.1:0", args, env, |_| Vec::new())
    }

    /// As [`Self::new`], with a coordinator that other machines reach, in plain text; programs of
    /// this one call it at its loopback address.
    pub fn on_all_addresses(args: &[&str]) -> Self {
        let args = [args, &["--insecure-no-tls"]].concat();
        Self::start("0.0.0.0:0", &args, &[], |_| Vec::new())
    }

    /// As [`Self::new`]; `prepare` is given the state folder before the coordinator starts, and
    /// gives further arguments.
    pub fn prepared(prepare: impl FnOnce(&Path) -> Vec<String>) -> Self {
        Self::start("127.0.0.1:0", &[], &[], prepare)
    }

    fn start(
        listen: &str,
        args: &[&str],
        env: &[(&str, &str)],
        prepare: impl FnOnce(&Path) -> Vec<String>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        tiny_model(folder.path());
        fs::write(folder.path().join("train.jsonl"), conversations(40)).expect("rows");
        fs::write(folder.path().join("eval.jsonl"), conversations(4)).expect("rows");
        let further = prepare(&folder.path().join("state"));
        let given = args.iter().map(|a| (*a).to_owned());
        let args: Vec<String> = given.chain(further).collect();
        let env: Vec<(String, String)> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let (coordinator, address) = start_coordinator(folder.path(), listen, &args, &env);
        let listen = address.clone();
        Self {
            folder,
            coordinator,
            address: address.replace("0.0.0.0", "127.0.0.1"),
            listen,
            args,
            env,
            workers: 0,
            starts: AtomicUsize::new(0),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the coordinator again, on the same address and state.
    pub fn restart_coordinator(&mut self) {
        (self.coordinator, _) =
            start_coordinator(self.folder.path(), &self.listen, &self.args, &self.env);
    }

    /// Starts the coordinator again with the arguments `args`, on the same address and state.
    pub fn restart_coordinator_with(&mut self, args: &[&str]) {
        self.args = args.iter().map(|&arg| arg.to_owned()).collect();
        self.restart_coordinator();
    }

    /// Starts another coordinator with the same arguments and the same state folder; gives its
    /// address.
    pub fn another_coordinator(&self, name: &str) -> (Program, String) {
        self.another_coordinator_with(name, &[])
    }

    /// As [`Self::another_coordinator`], with further arguments.
    pub fn another_coordinator_with(&self, name: &str, further: &[&str]) -> (Program, String) {
        let further = further.iter().map(|a| (*a).to_owned());
        let args: Vec<String> = self.args.iter().cloned().chain(further).collect();
        start_named(name, self.folder.path(), "127.0.0.1:0", &args, &self.env)
    }

    /// Starts the coordinator again, on another port and the same state.
    pub fn restart_coordinator_elsewhere(&mut self) {
        let (coordinator, address) =
            start_coordinator(self.folder.path(), "127.0.0.1:0", &self.args, &self.env);
        self.coordinator = coordinator;
        (self.listen, self.address) = (address.clone(), address);
    }

    /// Starts a worker in a state folder of its own.
    pub fn worker(&mut self, name: &str, args: &[&str]) -> Program {
        let address = self.address.clone();
        self.worker_at(&address, name, args)
    }

    /// Starts a worker in the given state folder; it computes on `QLORA_TEST_DEVICE`, the CPU where
    /// that is not set.
    pub fn worker_in(&self, name: &str, state: &Path, args: &[&str]) -> Program {
        self.start_worker(&[], &self.address, (name, state), args, &[])
    }

    /// Starts a worker that reaches the coordinator by another address.
    pub fn worker_at(&mut self, address: &str, name: &str, args: &[&str]) -> Program {
        self.workers += 1;
        let state = self.path(&format!("worker-{}", self.workers));
        self.start_worker(&[], address, (name, state.as_path()), args, &[])
    }

    /// Starts a worker at the far end of `link`.
    pub fn worker_behind(&mut self, link: &Link, name: &str, args: &[&str]) -> Program {
        self.workers += 1;
        let state = self.path(&format!("worker-{}", self.workers));
        let address = format!("http://{}", self.listen.replace("0.0.0.0", link.near()));
        self.start_worker(&link.enter(), &address, (name, state.as_path()), args, &[])
    }

    /// Starts a worker with variables of its own.
    pub fn worker_with(&mut self, name: &str, env: &[(&str, &str)]) -> Program {
        self.workers += 1;
        let state = self.path(&format!("worker-{}", self.workers));
        self.start_worker(&[], &self.address, (name, state.as_path()), &[], env)
    }

    /// As [`Self::worker_in`], with variables of its own.
    pub fn worker_in_with(&self, name: &str, state: &Path, env: &[(&str, &str)]) -> Program {
        self.start_worker(&[], &self.address, (name, state), &[], env)
    }

    /// A client of this coordinator.
    pub fn client(&self) -> Client {
        Client::new(&self.address, None).expect("an address")
    }

    /// The token that this coordinator has made.
    pub fn token(&self) -> String {
        fs::read_to_string(self.path("state/token"))
            .expect("a token")
            .trim()
            .to_owned()
    }

    fn start_worker(
        &self,
        through: &[String],
        address: &str,
        (name, state): (&str, &Path),
        args: &[&str],
        own_env: &[(&str, &str)],
    ) -> Program {
        let state = state.to_string_lossy().into_owned();
        let device = device();
        let own = [
            "--coordinator",
            address,
            "--name",
            name,
            "--state-dir",
            &state,
            "--device",
            &device,
        ];
        // The token is found under the coordinator's own address only.
        let token = (address != self.address)
            .then(|| self.path("state/token").to_string_lossy().into_owned());
        let token = token.iter().flat_map(|file| ["--token-file", file]);
        let all: Vec<&str> = own
            .into_iter()
            .chain(token)
            .chain(args.iter().copied())
            .collect();
        let start = self.starts.fetch_add(1, Relaxed);
        let log = format!("{name}-{start}.log");
        let env = [("RAYON_NUM_THREADS".to_owned(), "1".to_owned())];
        let own_env = own_env
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        let env: Vec<_> = env
            .into_iter()
            .chain(self.env.clone())
            .chain(own_env)
            .collect();
        let place = (self.folder.path(), log.as_str());
        Program::start_through(through, "qlora-worker", place, &all, &env)
    }

    /// Writes a configuration for the small model.
    pub fn config(&self, extra: &str) -> PathBuf {
        let model = self.path("tiny");
        let text = format!(
            "extends: cpu\nname: test\nmodel: {{base: {}}}\ndata: {{train: train.jsonl, eval: eval.jsonl, max_seq_len: 400}}\n{extra}\n",
            model.display()
        );
        let path = self.path("config.yaml");
        fs::write(&path, text).expect("a configuration");
        path
    }

    /// Runs `qlora-ctl` against this coordinator.
    pub fn ctl(&self, args: &[&str]) -> Ctl {
        self.ctl_with(args, &[])
    }

    /// As [`Self::ctl`], with environment variables.
    pub fn ctl_with(&self, args: &[&str], env: &[(&str, &str)]) -> Ctl {
        let mut command = launch("qlora-ctl");
        command
            .envs(self.env.iter().cloned())
            .env("QLORA_URL", &self.address)
            .args(args)
            .envs(env.iter().copied());
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .stdin(Stdio::null())
            .output()
            .expect("qlora-ctl runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Ctl {
            code: status.code().unwrap_or(-1),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// Submits and gives the job's number. On a GPU its repeated steps are to be bit-identical, as
    /// they are on a CPU.
    pub fn submit(&self, config: &Path, args: &[&str]) -> u64 {
        let config = config.to_string_lossy();
        let device = format!("resources.device={}", device());
        let repeatable = "training.flash_attention=repeatable";
        let own = ["submit", &config, "--set", &device, "--set", repeatable];
        let all: Vec<&str> = own.iter().chain(args).copied().collect();
        let answer = self.ctl(&all);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.stdout.trim().parse().expect("a number")
    }

    /// The job as JSON.
    pub fn job(&self, id: u64) -> Value {
        let answer = self.ctl(&["show", &id.to_string(), "--json"]);
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        answer.json().remove(0)
    }

    /// Waits until the job satisfies `f`.
    pub fn wait(&self, id: u64, what: &str, f: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, || Some(self.job(id)).filter(|job| f(job)))
    }

    /// Waits for the end of a job.
    pub fn ended(&self, id: u64) -> Value {
        self.wait(id, "the end of the job", |job| {
            matches!(
                job["state"].as_str(),
                Some("succeeded" | "failed" | "cancelled")
            )
        })
    }
}

fn start_coordinator(
    folder: &Path,
    listen: &str,
    args: &[String],
    env: &[(String, String)],
) -> (Program, String) {
    start_named("coordinator", folder, listen, args, env)
}

/// Starts a coordinator whose files have `name`; returns once it listens.
fn start_named(
    name: &str,
    folder: &Path,
    listen: &str,
    args: &[String],
    env: &[(String, String)],
) -> (Program, String) {
    let address_file = folder.join(format!("{name}.address"));
    let _ = fs::remove_file(&address_file);
    let (file, state) = (
        address_file.to_string_lossy(),
        folder.join("state").to_string_lossy().into_owned(),
    );
    let own = [
        "--listen",
        listen,
        "--address-file",
        &file,
        "--state-dir",
        &state,
    ];
    let all: Vec<&str> = own
        .into_iter()
        .chain(args.iter().map(String::as_str))
        .collect();
    let log = format!("{name}.log");
    let program = Program::start("qlora-coordinator", folder, &log, &all, env);
    let address = wait_until("the coordinator's address", || {
        fs::read_to_string(&address_file)
            .ok()
            .filter(|t| !t.is_empty())
    });
    (program, address)
}
