//! The training child: started, listened to, asked to stop, and judged by how it ended.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use qlora_proto::Outcome;
use qlora_trainer::Blame;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::child::{LEASE, Line, MEET};
use crate::gang::Meeting;
use crate::platform::nvidia::VISIBLE;

/// Lines of stderr that are kept for the message when the child dies.
const LAST_WORDS: usize = 5;

/// Makes the allocator keep what a step gave back: the next step takes it again (22 % faster steps were measured).
pub const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// A running child.
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    out: tokio::io::Lines<BufReader<ChildStdout>>,
    last_words: tokio::task::JoinHandle<Vec<String>>,
    ooms_before: u64,
    /// It was ended from here.
    killed: bool,
}

/// How a child ended.
#[derive(Debug)]
pub struct ExitStatus {
    pub outcome: Outcome,
    pub message: String,
}

impl Process {
    /// Starts `qlora-worker train --spec spec`, which sees no other GPU than `gpu`.
    pub fn start(spec: &Path, gpu: Option<&str>) -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program)
            .envs(gpu.map(|id| (VISIBLE, id)))
            .arg("train")
            .arg("--spec")
            .arg(spec)
            .env(KEEP_MEMORY.0, KEEP_MEMORY.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("the child has no pipes");
        let stdin = child.stdin.take();
        let out = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        let mut err = BufReader::new(child.stderr.take().ok_or_else(missing)?).lines();
        let last_words = tokio::spawn(async move {
            let mut last = Vec::new();
            while let Ok(Some(line)) = err.next_line().await {
                qlora_telemetry::print_line(&line);
                if last.len() == LAST_WORDS {
                    last.remove(0);
                }
                last.push(line);
            }
            last
        });
        Ok(Self { child, stdin, out, last_words, ooms_before: out_of_memory_kills(), killed: false })
    }

    /// The next line; none when the child has closed its stdout.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            let text = self.out.next_line().await.ok()??;
            match serde_json::from_str(&text) {
                Ok(line) => return Some(line),
                Err(_) => tracing::warn!("the training process wrote what is no event: {text}"),
            }
        }
    }

    /// Asks the child to save and stop.
    pub async fn ask_to_stop(&mut self) {
        self.say("stop").await;
    }

    /// Tells the child where the first of its gang is found.
    pub async fn tell_meeting(&mut self, meeting: &Meeting) {
        if let Ok(text) = serde_json::to_string(meeting) {
            self.say(&format!("{MEET}{text}")).await;
        }
    }

    /// Tells the child when to end by itself unless it hears of a later time: also where this process stands still.
    pub async fn tell_lease(&mut self, left: Duration) {
        self.say(&format!("{LEASE}{}", left.as_millis())).await;
    }

    /// A child that is gone hears nothing; how it ended is told elsewhere.
    async fn say(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// Ends the child without asking.
    pub async fn kill(&mut self) {
        self.killed = true;
        let _ = self.child.kill().await;
    }

    /// Waits for the end; `last` is the final line, where the child came to write one.
    pub async fn judge(mut self, last: Option<Line>) -> ExitStatus {
        drop(self.stdin.take());
        let status = self.child.wait().await;
        match last {
            Some(Line::Ended { blame: None, .. }) => ExitStatus { outcome: Outcome::Succeeded, message: String::new() },
            Some(Line::Ended { stopped: true, message, .. }) => ExitStatus { outcome: Outcome::Stopped, message },
            Some(Line::Ended { blame: Some(blame), message, .. }) => {
                let outcome = match blame {
                    Blame::Input => Outcome::BadInput,
                    Blame::Memory => Outcome::OutOfMemory,
                    Blame::Attempt => Outcome::Failed,
                    Blame::Peer => Outcome::PeerLost,
                };
                ExitStatus { outcome, message }
            }
            _ => {
                let words = self.last_words.await.unwrap_or_default().join(" | ");
                let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
                let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                let kill = signal == Some(Signal::KILL.as_raw()) && !self.killed;
                if kill && out_of_memory_kills() > self.ooms_before {
                    let message = "the system ended the training process because memory ran out; qlora-ctl plan says what would fit";
                    return ExitStatus { outcome: Outcome::OutOfMemory, message: message.into() };
                }
                ExitStatus {
                    outcome: Outcome::Failed,
                    message: format!("the training process ended with {how} {words}").trim_end().to_owned(),
                }
            }
        }
    }
}

/// How often the kernel has ended a process for want of memory: of this worker's own control group where it tells, else of
/// the machine; 0 where it tells neither. It says something of a process only where that one was killed.
fn out_of_memory_kills() -> u64 {
    let count = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let of_group = own.and_then(|path| count(&format!("/sys/fs/cgroup{}/memory.events", path.trim_end_matches('/'))));
    of_group.or_else(|| count("/proc/vmstat")).unwrap_or(0)
}
