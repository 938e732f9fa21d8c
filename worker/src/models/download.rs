//! One file over HTTP: resumed where it broke off, checked, and only then given its name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use qlora_client::retry::{Backoff, Policy, is_final_http};
use qlora_trainer::partial::place;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use super::error::ModelError;
use super::progress::Progress;
use crate::platform;

/// Bytes of a file whose size nobody has told.
const LARGEST_UNKNOWN: u64 = 64 << 20;

/// A client that trusts what the system trusts, and gives up connecting after a while.
pub(super) fn agent() -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(30)));
    config.build().new_agent()
}

/// A file to get.
pub(super) struct Wanted<'a> {
    pub what: &'a str,
    pub url: &'a str,
    /// 0 where it is not known.
    pub bytes: u64,
    /// In hex; none where the source names none.
    pub sha256: Option<&'a str>,
    pub token: Option<&'a str>,
}

/// Gets `wanted` to `path`. What is there from an earlier try is kept.
pub(super) fn file(
    wanted: &Wanted<'_>,
    path: &Path,
    progress: &dyn Progress,
) -> Result<(), ModelError> {
    if path.exists() {
        return Ok(());
    }
    let partial = partial_of(path);
    has_room(wanted, &partial)?;
    progress.start(wanted.what, wanted.bytes);
    let mut backoff = Backoff::new(Policy::DOWNLOAD);
    while let Err(fault) = go_on(wanted, &partial, progress) {
        if fault.is_final || backoff.is_spent() {
            has_room(wanted, &partial)?;
            let help = "check the connection and try again; what has come is kept".into();
            return Err(ModelError::Fetch {
                what: wanted.what.into(),
                fault: fault.text,
                help,
            });
        }
        progress.note(&format!(
            "{} broke off ({}), going on",
            wanted.what, fault.text
        ));
        std::thread::sleep(backoff.take());
    }
    if let Some(sha256) = wanted.sha256 {
        verify(&partial, sha256)?;
    }
    place(&partial, path).map_err(ModelError::io(path))
}

/// Whether the disk holds what is still to come.
fn has_room(wanted: &Wanted<'_>, partial: &Path) -> Result<(), ModelError> {
    let folder = partial.parent().unwrap_or(Path::new("."));
    let (free, have) = (
        platform::disk_free(folder),
        fs::metadata(partial).map_or(0, |meta| meta.len()),
    );
    let missing = wanted.bytes.saturating_sub(have);
    match free {
        Some(free) if missing > free => Err(ModelError::NoRoom {
            what: wanted.what.into(),
            missing: gib(missing),
            folder: folder.into(),
            free: gib(free),
        }),
        _ => Ok(()),
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

fn partial_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

struct Fault {
    text: String,
    is_final: bool,
}

impl Fault {
    fn again(text: impl ToString) -> Self {
        Self {
            text: text.to_string(),
            is_final: false,
        }
    }
}

fn go_on(wanted: &Wanted<'_>, partial: &Path, progress: &dyn Progress) -> Result<(), Fault> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(partial)
        .map_err(|e| Fault {
            text: e.to_string(),
            is_final: true,
        })?;
    let have = file.metadata().map_err(Fault::again)?.len();
    if wanted.bytes > 0 && have == wanted.bytes {
        return Ok(());
    }
    let mut request = agent().get(wanted.url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    if let Some(token) = wanted.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let response = request.call().map_err(|e| match e {
        ureq::Error::StatusCode(code) => Fault {
            text: format!("the server answers {code}"),
            is_final: is_final_http(code),
        },
        // Before the first byte another source may be better than another try.
        other => Fault {
            text: other.to_string(),
            is_final: have == 0,
        },
    })?;
    let mut position = have;
    if have > 0 && response.status() != 206 {
        // The server sends all of it again.
        file.set_len(0).map_err(Fault::again)?;
        position = 0;
    }
    let most = if wanted.bytes > 0 {
        wanted.bytes
    } else {
        LARGEST_UNKNOWN
    };
    copy(
        &mut response.into_body().into_reader(),
        &mut file,
        (position, most),
        progress,
    )?;
    file.sync_all().map_err(Fault::again)
}

/// Copies from `position` on, and no more than `most` bytes in all: whoever sends more sends
/// something else.
fn copy(
    from: &mut impl Read,
    to: &mut File,
    (mut position, most): (u64, u64),
    progress: &dyn Progress,
) -> Result<(), Fault> {
    let mut buffer = vec![0u8; 256 * 1024];
    loop {
        let n = from.read(&mut buffer).map_err(Fault::again)?;
        if n == 0 {
            return Ok(());
        }
        if position + n as u64 > most {
            let text = format!("the server sends more than the {most} bytes that it announced");
            return Err(Fault {
                text,
                is_final: true,
            });
        }
        to.write_all(&buffer[..n]).map_err(|e| Fault {
            text: e.to_string(),
            is_final: true,
        })?;
        position += n as u64;
        progress.at(position);
    }
}

/// Holds `path` against its checksum; a wrong file is removed.
pub(super) fn verify(path: &Path, wanted: &str) -> Result<(), ModelError> {
    let mut file = File::open(path).map_err(ModelError::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(ModelError::io(path))?;
    let found = hex::encode(hash.finalize());
    if found == wanted {
        return Ok(());
    }
    fs::remove_file(path).map_err(ModelError::io(path))?;
    Err(ModelError::Checksum {
        path: path.into(),
        found,
        wanted: wanted.into(),
    })
}

#[cfg(test)]
mod tests {
    use qlora_codes::Code;

    use super::*;

    struct Nobody;

    impl Progress for Nobody {
        fn start(&self, _: &str, _: u64) {}

        fn at(&self, _: u64) {}

        fn note(&self, _: &str) {}
    }

    #[test]
    fn no_more_is_taken_than_was_announced() {
        for (announced, is_taken) in [(10, true), (11, true), (9, false), (0, false)] {
            let mut file = tempfile::tempfile().expect("a file");
            let taken = copy(&mut &[7u8; 10][..], &mut file, (0, announced), &Nobody);
            assert_eq!(taken.is_ok(), is_taken, "{announced}");
            assert!(file.metadata().expect("a size").len() <= announced);
        }
    }

    #[test]
    fn what_the_disk_does_not_hold_is_not_begun() {
        let home = tempfile::tempdir().expect("a folder");
        let wanted = |bytes| Wanted {
            what: "x",
            url: "",
            bytes,
            sha256: None,
            token: None,
        };
        let partial = home.path().join("x.partial");
        assert!(has_room(&wanted(1), &partial).is_ok());
        let refused = has_room(&wanted(u64::MAX / 2), &partial);
        assert!(refused.is_err_and(|fault| fault.code() == Code::DiskFull));
    }
}
