//! The training child: started, listened to, asked to stop, and judged by how it ended.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use qlora_codes::Code;
use qlora_proto::Outcome;
use qlora_trainer::FailureClass;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::exit_status::ExitStatus;
use super::last_words::LastWords;
use crate::child::{LEASE, Line, RENDEZVOUS, program_fault};
use crate::platform::nvidia::VISIBLE;
use crate::process_group::Rendezvous;

/// Makes the allocator keep what a step gave back: the next step takes it again (22 % faster steps
/// were measured).
pub const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// Lines that wait for a child to read them.
const UNREAD: usize = 64;

/// How often the kernel has ended a process for want of memory.
#[derive(Debug, Clone, Copy, Default)]
struct Ooms {
    /// In this worker's own control group; 0 where it does not tell.
    own: u64,
    /// On the machine, where the process may have been anybody's.
    machine: u64,
}

/// A running child.
pub struct Process {
    child: Child,
    /// To the task that writes to the child, so that one which reads nothing keeps nobody waiting.
    stdin: Option<mpsc::Sender<String>>,
    out: tokio::io::Lines<BufReader<ChildStdout>>,
    last_words: tokio::task::JoinHandle<LastWords>,
    /// Counts what the kernel ended for want of memory.
    ooms: fn() -> Ooms,
    ooms_before: Ooms,
    /// It was ended from here.
    killed: bool,
}

impl Process {
    /// Starts `qlora-worker train --spec spec`, which sees no other GPU than `gpu`.
    pub fn start(spec: &Path, gpu: Option<&str>) -> std::io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .envs(gpu.map(|id| (VISIBLE, id)))
            .arg("train")
            .arg("--spec")
            .arg(spec);
        Self::run(command, out_of_memory_kills)
    }

    /// Starts `command`; `ooms` tells how often memory has run out.
    fn run(mut command: Command, ooms: fn() -> Ooms) -> std::io::Result<Self> {
        let ooms_before = ooms();
        let mut child = command
            .env(KEEP_MEMORY.0, KEEP_MEMORY.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("the child has no pipes");
        let stdin = child.stdin.take().map(|pipe| {
            let (lines, unread) = mpsc::channel(UNREAD);
            tokio::spawn(tell(pipe, unread));
            lines
        });
        let out = BufReader::new(child.stdout.take().ok_or_else(missing)?).lines();
        let err = BufReader::new(child.stderr.take().ok_or_else(missing)?);
        let last_words = tokio::spawn(LastWords::of(err));
        Ok(Self {
            child,
            stdin,
            out,
            last_words,
            ooms,
            ooms_before,
            killed: false,
        })
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
    pub fn ask_to_stop(&self) {
        self.say("stop".into());
    }

    /// Tells the child where the first of its process group is found.
    pub fn tell_rendezvous(&self, rendezvous: &Rendezvous) {
        if let Ok(text) = serde_json::to_string(rendezvous) {
            self.say(format!("{RENDEZVOUS}{text}"));
        }
    }

    /// Tells the child when to end by itself unless it hears of a later time: also where this
    /// process stands still.
    pub fn tell_lease(&self, left: Duration) {
        self.say(format!("{LEASE}{}", left.as_millis()));
    }

    /// A child that is gone, or has left so many lines unread, hears nothing; it is ended by its
    /// deadlines.
    fn say(&self, line: String) {
        if let Some(stdin) = &self.stdin {
            let _ = stdin.try_send(line);
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
            Some(Line::Ended {
                failure_class: None,
                ..
            }) => ExitStatus::succeeded(),
            Some(Line::Ended {
                stopped: true,
                message,
                ..
            }) => ExitStatus::of(Outcome::Stopped, message),
            Some(Line::Ended {
                failure_class: Some(class),
                message,
                code,
                ..
            }) => {
                let outcome = match class {
                    FailureClass::Input => Outcome::BadInput,
                    FailureClass::Memory => Outcome::OutOfMemory,
                    FailureClass::Attempt => Outcome::Failed,
                    FailureClass::Peer => Outcome::PeerLost,
                };
                ExitStatus {
                    code,
                    ..ExitStatus::of(outcome, message)
                }
            }
            _ => self.died(status).await,
        }
    }

    /// Of a child that could not tell how it ended.
    async fn died(self, status: std::io::Result<std::process::ExitStatus>) -> ExitStatus {
        let words = self.last_words.await.unwrap_or_default();
        let signal = status.as_ref().ok().and_then(ExitStatusExt::signal);
        let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
        let kill = signal == Some(Signal::KILL.as_raw()) && !self.killed;
        let ooms = (self.ooms)();
        if kill && ooms.own > self.ooms_before.own {
            let message = "the system ended the training process because memory ran out; qlora-ctl plan says what would fit";
            return ExitStatus::of(Outcome::OutOfMemory, message).with_code(Code::OutOfMemory);
        }
        // Another program may have used the memory up, and somebody else have ended this one: the
        // job is tried again.
        if kill && ooms.machine > self.ooms_before.machine {
            let message = "the training process was killed, and memory of the machine ran out meanwhile; qlora-ctl plan says what the job needs";
            return ExitStatus::of(Outcome::Failed, message);
        }
        // A panic that the process could not catch ends it by an abort.
        if signal == Some(Signal::ABORT.as_raw())
            && let Some(panic) = words.panic()
        {
            return ExitStatus::of(Outcome::BadInput, program_fault(&panic));
        }
        let message = format!("the training process ended with {how} {}", words.text());
        ExitStatus::of(Outcome::Failed, message.trim_end())
    }
}

/// Writes lines to a child until nobody sends any more, or it is gone.
async fn tell(mut pipe: ChildStdin, mut unread: mpsc::Receiver<String>) {
    while let Some(line) = unread.recv().await {
        if pipe
            .write_all(format!("{line}\n").as_bytes())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Says something of a process only where that one was killed.
fn out_of_memory_kills() -> Ooms {
    let count = |path: &str| {
        let text = std::fs::read_to_string(path).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let of_group = own.and_then(|path| {
        count(&format!(
            "/sys/fs/cgroup{}/memory.events",
            path.trim_end_matches('/')
        ))
    });
    Ooms {
        own: of_group.unwrap_or(0),
        machine: count("/proc/vmstat").unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

    use super::*;

    fn no_ooms() -> Ooms {
        Ooms { own: 3, machine: 9 }
    }

    /// Another process has used memory up each time that anybody asks.
    fn more_ooms() -> Ooms {
        static OOMS: AtomicU64 = AtomicU64::new(0);
        let own = OOMS.fetch_add(1, SeqCst);
        Ooms { own, machine: own }
    }

    /// As [`more_ooms`], but not in the group of this program.
    fn ooms_elsewhere() -> Ooms {
        Ooms {
            own: 3,
            ..more_ooms()
        }
    }

    fn child(script: &str, ooms: fn() -> Ooms) -> Process {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        Process::run(command, ooms).expect("a shell")
    }

    /// How a child ends that runs `script`, as the agent follows it.
    async fn end_of(script: &str, ooms: fn() -> Ooms) -> ExitStatus {
        let mut process = child(script, ooms);
        let mut last = None;
        while let Some(line) = process.next().await {
            last = matches!(line, Line::Ended { .. }).then_some(line);
        }
        process.judge(last).await
    }

    #[tokio::test]
    async fn a_killed_process_is_out_of_memory_only_where_the_kernel_counts_one_that_was() {
        let killed = end_of("echo late words >&2; kill -9 $$", no_ooms).await;
        assert_eq!(
            (killed.outcome, killed.code.as_str()),
            (Outcome::Failed, "")
        );
        assert!(
            killed.message.contains("signal: 9") && killed.message.ends_with("late words"),
            "{killed:?}"
        );
        let by_kernel = end_of("kill -9 $$", more_ooms).await;
        assert_eq!(
            (by_kernel.outcome, by_kernel.code.as_str()),
            (Outcome::OutOfMemory, "Q0304")
        );
        // One of the machine may be of any program: the job is not given up for it.
        let by_anybody = end_of("kill -9 $$", ooms_elsewhere).await;
        assert_eq!(
            (by_anybody.outcome, by_anybody.code.as_str()),
            (Outcome::Failed, "")
        );
        assert!(by_anybody.message.contains("memory"), "{by_anybody:?}");
        // Another end than a kill, or our own kill, is none by the kernel, whatever it counts
        // meanwhile.
        for script in ["kill -15 $$", "kill -6 $$", "exit 137", "exit 1"] {
            assert_eq!(
                end_of(script, more_ooms).await.outcome,
                Outcome::Failed,
                "{script}"
            );
        }
        let mut ours = child("exec sleep 600", more_ooms);
        ours.kill().await;
        assert_eq!(ours.judge(None).await.outcome, Outcome::Failed);
    }

    #[tokio::test]
    async fn a_process_that_reads_nothing_keeps_nobody_waiting_and_is_ended() {
        let mut deaf = child("exec sleep 600", no_ooms);
        // More than a pipe and all waiting lines hold.
        for _ in 0..100_000 {
            deaf.tell_lease(Duration::from_secs(3));
        }
        deaf.ask_to_stop();
        deaf.kill().await;
        assert_eq!(deaf.judge(None).await.outcome, Outcome::Failed);
    }

    #[tokio::test]
    async fn a_process_hears_what_it_is_told() {
        let mut process = child("read a; read b; echo $a $b >&2; kill -9 $$", no_ooms);
        process.tell_lease(Duration::from_millis(1500));
        process.ask_to_stop();
        while process.next().await.is_some() {}
        let status = process.judge(None).await;
        assert!(
            status.message.ends_with(&format!("{LEASE}1500 stop")),
            "{status:?}"
        );
    }

    #[tokio::test]
    async fn a_process_that_aborts_by_a_panic_is_told_as_such_and_one_that_aborts_otherwise_is_not()
    {
        let panics = [
            "thread 'main' panicked at src/x.rs:3:5:\nindex out of bounds: the len is 3",
            "\nthread 'main' has overflowed its stack\nfatal runtime error: stack overflow",
        ];
        for said in panics {
            let script = format!("printf '%s\\n' \"{said}\" >&2; kill -6 $$");
            let status = end_of(&script, more_ooms).await;
            assert_eq!(status.outcome, Outcome::BadInput, "{status:?}");
            let wanted = said.trim().lines().next().expect("a line");
            assert!(
                status.message.contains("a fault of this program")
                    && status.message.contains(wanted),
                "{status:?}"
            );
            // A thread that panicked is not what ended a process that was killed later.
            let status = end_of(&script.replace("-6", "-9"), no_ooms).await;
            assert_eq!(status.outcome, Outcome::Failed, "{status:?}");
        }
        let status = end_of("echo free: invalid pointer >&2; kill -6 $$", no_ooms).await;
        assert!(
            status.outcome == Outcome::Failed && status.message.contains("invalid pointer"),
            "{status:?}"
        );
    }

    #[tokio::test]
    async fn the_last_line_tells_more_than_the_exit_code_and_brings_the_code_of_the_fault() {
        let ended = |class: &str, stopped: bool| {
            let line = format!(
                r#"{{"failure_class":{class},"stopped":{stopped},"message":"why","code":"Q0511"}}"#
            );
            format!("echo noise; echo '{line}'; exit 1")
        };
        for (class, stopped, outcome, code) in [
            ("null", false, Outcome::Succeeded, ""),
            (r#""attempt""#, true, Outcome::Stopped, ""),
            (r#""input""#, false, Outcome::BadInput, "Q0511"),
            (r#""memory""#, false, Outcome::OutOfMemory, "Q0511"),
            (r#""attempt""#, false, Outcome::Failed, "Q0511"),
            (r#""peer""#, false, Outcome::PeerLost, "Q0511"),
        ] {
            let status = end_of(&ended(class, stopped), more_ooms).await;
            assert_eq!(
                (status.outcome, status.code.as_str()),
                (outcome, code),
                "{class} {stopped}"
            );
        }
    }
}
