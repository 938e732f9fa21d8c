//! What a process takes, as Linux tells it.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Resident memory in MiB.
///
/// # Panics
/// The process is gone, or the system does not tell.
pub fn memory(pid: u32) -> f64 {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).expect("the state of the process");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    kib.expect("its resident memory") / 1024.0
}

/// CPU seconds, of the program itself and of the system for it.
///
/// # Panics
/// As [`memory`].
pub fn cpu(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the state of the process");
    let fields: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|f| f.parse().ok())
        .collect();
    // utime and stime are the 14th and 15th field; the state, a letter, is not among the parsed
    // ones.
    let (user, system) = (fields.get(10), fields.get(11));
    let ticks = user.zip(system).map(|(user, system)| user + system);
    ticks.expect("its CPU time") / 100.0
}

/// Lets this process hold `wanted` connections and files.
///
/// # Panics
/// The system refuses them: fewer workers would be measured than were asked for.
pub fn hold(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("a limit of open files that is high enough");
}
