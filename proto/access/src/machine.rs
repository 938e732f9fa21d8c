//! What this machine is called, and which addresses are its own.

use std::net::{IpAddr, UdpSocket};
use std::sync::LazyLock;

/// The names by which this machine may be called: its host name, the first label of it, and that
/// label in mDNS.
pub fn names() -> Vec<String> {
    sysinfo::System::host_name()
        .map(|host| names_of(&host))
        .unwrap_or_default()
}

fn names_of(host: &str) -> Vec<String> {
    let host = host.trim().trim_end_matches('.').to_ascii_lowercase();
    let label = host.split('.').next().unwrap_or_default().to_owned();
    if label.is_empty() {
        return Vec::new();
    }
    let mut names = vec![host, format!("{label}.local"), label];
    names.sort();
    names.dedup();
    names
}

/// Whether `ip` belongs to this machine: only then a socket can be bound to it.
pub(crate) fn owns(ip: IpAddr) -> bool {
    ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Identifies this start of this machine, so that a record in a home folder that machines share is
/// taken for what it is. Empty where the system does not tell; then the lock on the record alone
/// decides.
pub(crate) fn boot() -> &'static str {
    // A client compares it at every call, and it does not change while the process lives.
    static BOOT: LazyLock<String> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    });
    &BOOT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_goes_by_its_full_its_short_and_its_mdns_name() {
        assert_eq!(
            names_of("Head.Example.com"),
            ["head", "head.example.com", "head.local"]
        );
        assert_eq!(names_of("mac.local\n"), ["mac", "mac.local"]);
        assert_eq!(names_of("node7"), ["node7", "node7.local"]);
        assert!(names_of("").is_empty() && names_of(".").is_empty());
    }

    #[test]
    fn only_addresses_of_this_machine_are_its_own() {
        assert!(owns("127.0.0.1".parse().expect("an address")));
        // From a block that is set aside for documentation.
        assert!(!owns("192.0.2.1".parse().expect("an address")));
    }
}
