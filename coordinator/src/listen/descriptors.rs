//! The number of files and connections that the system lets this process hold.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than this is of no use here, and some systems refuse to give it.
const WANTED: u64 = 65_536;
/// What macOS gives to every process that asks, whatever its hard limit says.
const MODEST: u64 = 10_240;

/// Raises the soft limit as far as the hard one lets, and gives the limit that holds.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    for wanted in [WANTED, MODEST].map(|wanted| wanted.min(hard)) {
        let now = limit.current.unwrap_or(u64::MAX);
        if now >= wanted {
            return now;
        }
        if setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                maximum: limit.maximum,
            },
        )
        .is_ok()
        {
            return wanted;
        }
    }
    limit.current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_rises_to_the_hard_one_and_never_falls() {
        let before = getrlimit(Resource::Nofile);
        let given = raise();
        let after = getrlimit(Resource::Nofile);
        assert_eq!(after.current.unwrap_or(u64::MAX), given);
        assert_eq!(after.maximum, before.maximum);
        assert!(given >= before.current.unwrap_or(u64::MAX).min(WANTED));
        assert_eq!(raise(), given);
    }
}
