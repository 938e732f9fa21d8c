//! The training child: started, listened to, asked to stop, and judged by how it ended.

use std::path::Path;
use std::process::Stdio;

use qlora_proto::Outcome;
use qlora_trainer::Blame;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::child::{Line, MEET};
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
}

/// How a child ended.
pub struct Judgement {
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
                eprintln!("{line}");
                if last.len() == LAST_WORDS {
                    last.remove(0);
                }
                last.push(line);
            }
            last
        });
        Ok(Self { child, stdin, out, last_words, ooms_before: out_of_memory_kills() })
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

    /// A child that is gone hears nothing; how it ended is told elsewhere.
    async fn say(&mut self, line: &str) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(format!("{line}\n").as_bytes()).await;
        }
    }

    /// Ends the child without asking.
    pub async fn kill(&mut self) {
        let _ = self.child.kill().await;
    }

    /// Waits for the end; `last` is the final line, where the child came to write one.
    pub async fn judge(mut self, last: Option<Line>) -> Judgement {
        drop(self.stdin.take());
        let status = self.child.wait().await;
        match last {
            Some(Line::Ended { blame: None, .. }) => Judgement { outcome: Outcome::Succeeded, message: String::new() },
            Some(Line::Ended { stopped: true, message, .. }) => Judgement { outcome: Outcome::Stopped, message },
            Some(Line::Ended { blame: Some(blame), message, .. }) => {
                let outcome = match blame {
                    Blame::Input => Outcome::BadInput,
                    Blame::Memory => Outcome::OutOfMemory,
                    Blame::Attempt => Outcome::Failed,
                    Blame::Peer => Outcome::PeerLost,
                };
                Judgement { outcome, message }
            }
            _ => {
                let words = self.last_words.await.unwrap_or_default().join(" | ");
                let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                if out_of_memory_kills() > self.ooms_before {
                    let message = "the system ended the training process because memory ran out; qlora-ctl plan says what would fit";
                    return Judgement { outcome: Outcome::OutOfMemory, message: message.into() };
                }
                Judgement {
                    outcome: Outcome::Failed,
                    message: format!("the training process ended with {how} {words}").trim_end().to_owned(),
                }
            }
        }
    }
}

/// How often the kernel has ended a process for want of memory; 0 where it does not tell.
fn out_of_memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok()).unwrap_or(0)
}
