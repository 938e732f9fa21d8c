//! What one input may cost: time of the thread that reads it, and memory of the process.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of one input. Inputs are small, so that only what grows much faster than its input
/// takes so long, in a debug build too.
pub(crate) const MOST_TIME: Duration = Duration::from_secs(8);

/// Memory that inputs may take, beside what the threads of the process reserve.
const MOST_MEMORY: u64 = 2 << 30;
/// What the allocator reserves for one thread, with its stack.
const OF_THREAD: u64 = 256 << 20;

/// CPU time that `work` takes on this thread. Other programs of the machine do not change it.
pub(crate) fn timed(work: impl FnOnce()) -> Duration {
    let began = of_thread();
    work();
    of_thread().saturating_sub(began)
}

fn of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

/// Limits the address space of this process, so that room for a size that only a header claims is
/// refused and ends the process.
#[cfg(target_os = "linux")]
pub(crate) fn limit_memory() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let used = address_space().expect("/proc/self/status holds the size of this process");
        let wanted = used + MOST_MEMORY + threads * OF_THREAD;
        let maximum = getrlimit(Resource::As).maximum;
        let current = Some(maximum.map_or(wanted, |maximum| maximum.min(wanted)));
        setrlimit(Resource::As, Rlimit { current, maximum }).expect("a lower limit is taken");
    });
}

/// Other systems take no such limit, or do not hold it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn limit_memory() {}

/// Bytes of the address space that this process has now.
#[cfg(target_os = "linux")]
fn address_space() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let size = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))?;
    let kilobytes: u64 = size.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}
