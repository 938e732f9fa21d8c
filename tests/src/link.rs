//! A network between this machine and a place of its own, made of the kernel's namespaces: real
//! addresses, real TCP, and a cable that can be cut in either direction without a word to either
//! end. It needs root, and is not to be had everywhere.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A queue that has room for no packet: what is given to it is lost.
const LOSES_ALL: &str = "root tbf rate 8bit burst 1 limit 1";

/// The cable and what is at its far end; both go with it.
pub struct Link {
    /// Of the namespace, and what the names of its two devices begin with.
    name: String,
    near: String,
}

impl Link {
    /// None where this machine does not let the test make one.
    pub fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Relaxed);
        let process = std::process::id();
        // Names of devices have 15 letters at most.
        let name = format!("q{}x{number}", process % 1_000_000);
        // Tests of several processes may run at once: each link has a network of its own.
        let (third, fourth) = (process % 256, (number % 63) * 4);
        let (near, far) = (
            format!("10.213.{third}.{}", fourth + 1),
            format!("10.213.{third}.{}", fourth + 2),
        );
        run(&format!("ip netns add {name}"))?;
        // From here on what was made goes, also where the rest cannot be.
        let link = Self { name, near };
        let (name, near) = (&link.name, &link.near);
        run(&format!(
            "ip link add {name}n type veth peer name {name}f netns {name}"
        ))?;
        run(&format!("ip addr add {near}/30 dev {name}n"))?;
        run(&format!("ip link set {name}n up"))?;
        run(&format!("ip -n {name} addr add {far}/30 dev {name}f"))?;
        run(&format!("ip -n {name} link set {name}f up"))?;
        run(&format!("ip -n {name} link set lo up"))?;
        // Whether the kernel has what cuts it.
        link.cut_forth()?;
        link.mend();
        Some(link)
    }

    /// This machine's address on it.
    pub fn near(&self) -> &str {
        &self.near
    }

    /// The command that starts a program at the far end, in the place of itself.
    pub fn enter(&self) -> Vec<String> {
        let namespace = format!("--net=/run/netns/{}", self.name);
        vec!["nsenter".into(), namespace, "--".into()]
    }

    /// From now on nothing arrives here that is sent at the far end.
    pub fn cut_forth(&self) -> Option<()> {
        let name = &self.name;
        run(&format!("tc -n {name} qdisc add dev {name}f {LOSES_ALL}"))
    }

    /// From now on nothing arrives at the far end.
    pub fn cut_back(&self) -> Option<()> {
        let name = &self.name;
        run(&format!("tc qdisc add dev {name}n {LOSES_ALL}"))
    }

    /// The cable is whole.
    pub fn mend(&self) {
        let name = &self.name;
        // A direction that is whole has nothing to take away.
        run(&format!("tc -n {name} qdisc del dev {name}f root"));
        run(&format!("tc qdisc del dev {name}n root"));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let name = &self.name;
        // Its other end goes with it.
        run(&format!("ip link del {name}n"));
        run(&format!("ip netns del {name}"));
    }
}

/// Runs a command of words without spaces; none where it cannot be run or refuses.
fn run(words: &str) -> Option<()> {
    let mut words = words.split(' ');
    let status = Command::new(words.next()?)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.ok()?.success().then_some(())
}
