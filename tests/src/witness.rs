//! Watches the training processes of a machine, and notes two that train one job at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two looks: a process trains for longer.
const EVERY: Duration = Duration::from_millis(10);

/// Training processes by their ids, each with the number of its job.
type Seen = BTreeMap<u32, u64>;

/// What was seen.
#[derive(Debug, Default)]
pub struct Sight {
    /// Training processes, one after another or not.
    pub processes: usize,
    /// Two at once, in words.
    pub pairs: Vec<String>,
}

/// Looks until it is asked.
pub struct Witness {
    ends: Arc<AtomicBool>,
    looking: Option<JoinHandle<Sight>>,
}

impl Witness {
    /// Watches the processes whose job lies below `folder`.
    pub fn of(folder: &Path) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let (end, folder) = (ends.clone(), folder.to_owned());
        let looking = std::thread::spawn(move || look(&folder, &end));
        Self {
            ends,
            looking: Some(looking),
        }
    }

    /// What it has seen by now; it looks no more.
    ///
    /// # Panics
    /// Processes cannot be watched here.
    pub fn sight(mut self) -> Sight {
        self.ends.store(true, SeqCst);
        let looking = self.looking.take().expect("it looks until it is asked");
        looking.join().expect("processes that can be watched")
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ends.store(true, SeqCst);
    }
}

fn look(folder: &Path, ends: &AtomicBool) -> Sight {
    let (mut sight, mut before) = (Sight::default(), Seen::new());
    while !ends.load(SeqCst) {
        let now = training(folder);
        sight.processes += now.keys().filter(|pid| !before.contains_key(*pid)).count();
        for pair in at_once(&before, &now) {
            if !sight.pairs.contains(&pair) {
                sight.pairs.push(pair);
            }
        }
        before = now;
        std::thread::sleep(EVERY);
    }
    sight
}

/// Pairs that trained one job at one time. Within one look the first may end before the second is
/// looked at. Two that are seen in two looks, one after the other, have both been there between.
fn at_once(before: &Seen, now: &Seen) -> Vec<String> {
    let stayed: Vec<(u32, u64)> = now
        .iter()
        .filter(|(pid, job)| before.get(pid) == Some(job))
        .map(|(pid, job)| (*pid, *job))
        .collect();
    let mut pairs = Vec::new();
    for (i, (pid, job)) in stayed.iter().enumerate() {
        for (other, _) in stayed[..i].iter().filter(|(_, of)| of == job) {
            pairs.push(format!("processes {other} and {pid} train job {job}"));
        }
    }
    pairs
}

/// The training processes of workers below `folder` that have not ended.
fn training(folder: &Path) -> Seen {
    let entries = fs::read_dir("/proc").expect("a list of processes");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        // One that has ended, and that nobody has waited for, has no words any more.
        let words = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some((pid, job_of(&words, folder)?))
    })
    .collect()
}

/// The number of the job that the process with the command line `words` trains.
fn job_of(words: &[u8], folder: &Path) -> Option<u64> {
    let words: Vec<&str> = words
        .split(|byte| *byte == 0)
        .map(|word| std::str::from_utf8(word).unwrap_or_default())
        .collect();
    let at = words.iter().position(|word| *word == "--spec")?;
    let spec = PathBuf::from(words.get(at + 1)?);
    if words.get(1) != Some(&"train") || !spec.starts_with(folder) {
        return None;
    }
    // COORDINATOR-JOB-TOKEN, as the agent names it.
    let attempt = spec.parent()?.file_name()?.to_str()?;
    attempt.split('-').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_are_at_once_where_both_are_seen_twice() {
        let seen = |all: &[(u32, u64)]| all.iter().copied().collect::<Seen>();
        let (one, both) = (seen(&[(5, 1)]), seen(&[(5, 1), (6, 1), (7, 2)]));
        assert!(at_once(&one, &both).is_empty());
        assert!(at_once(&both, &one).is_empty());
        assert_eq!(
            at_once(&both, &both),
            ["processes 5 and 6 train job 1".to_owned()]
        );
    }

    #[test]
    fn a_training_process_is_known_by_its_words() {
        let job = |words: &str| job_of(words.replace(' ', "\0").as_bytes(), Path::new("/w"));
        let spec = "/w/worker-1/jobs/0123abcd-12-77/spec.json";
        assert_eq!(job(&format!("/bin/worker train --spec {spec} ")), Some(12));
        assert_eq!(
            job(&format!("/bin/worker train --spec /other{spec} ")),
            None
        );
        assert_eq!(job("/bin/worker --state-dir /w/worker-1 "), None);
        assert_eq!(job(""), None);
    }
}
