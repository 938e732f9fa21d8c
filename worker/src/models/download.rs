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
/// How long a server may send nothing before a transfer is broken off.
const SILENCE: Duration = Duration::from_secs(30);

/// A client that trusts what the system trusts, and gives up a server that does not answer, or that
/// goes silent in the middle of an answer.
pub(super) fn agent() -> Agent {
    agent_with(SILENCE)
}

fn agent_with(silence: Duration) -> Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(silence))
        .timeout_per_read(Some(silence));
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
    while let Err(fault) = go_on(&agent(), wanted, &partial, progress) {
        if let Some(source) = fault.disk {
            // Of a quota and of one that is shared, the size of the file says nothing.
            has_room(wanted, &partial)?;
            return Err(ModelError::io(partial)(source));
        }
        if fault.is_final || backoff.is_spent() {
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

/// Whether the disk holds what is still to come, and something is left then.
fn has_room(wanted: &Wanted<'_>, partial: &Path) -> Result<(), ModelError> {
    let folder = partial.parent().unwrap_or(Path::new("."));
    let (free, have) = (
        platform::disk_free(folder),
        fs::metadata(partial).map_or(0, |meta| meta.len()),
    );
    let missing = wanted.bytes.saturating_sub(have);
    let reserve = platform::disk_reserve(folder);
    match free {
        Some(free) if missing > 0 && missing.saturating_add(reserve) > free => {
            Err(ModelError::NoRoom {
                what: wanted.what.into(),
                missing: gib(missing),
                folder: folder.into(),
                free: gib(free),
                reserve: gib(reserve),
            })
        }
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
    /// What this machine's disk said, where the fault is its own.
    disk: Option<std::io::Error>,
}

impl Fault {
    fn new(text: impl ToString, is_final: bool) -> Self {
        Self {
            text: text.to_string(),
            is_final,
            disk: None,
        }
    }

    fn again(text: impl ToString) -> Self {
        Self::new(text, false)
    }

    fn of_disk(source: std::io::Error) -> Self {
        Self {
            disk: Some(source),
            ..Self::new("", true)
        }
    }
}

fn go_on(
    agent: &Agent,
    wanted: &Wanted<'_>,
    partial: &Path,
    progress: &dyn Progress,
) -> Result<(), Fault> {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(partial)
        .map_err(Fault::of_disk)?;
    let have = file.metadata().map_err(Fault::of_disk)?.len();
    if wanted.bytes > 0 && have == wanted.bytes {
        return Ok(());
    }
    let mut request = agent.get(wanted.url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    if let Some(token) = wanted.token {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    let response = request.call().map_err(|e| match e {
        ureq::Error::StatusCode(code) => {
            Fault::new(format!("the server answers {code}"), is_final_http(code))
        }
        // Before the first byte another source may be better than another try.
        other => Fault::new(other, have == 0),
    })?;
    let mut position = have;
    if have > 0 && response.status() != 206 {
        // The server sends all of it again.
        file.set_len(0).map_err(Fault::of_disk)?;
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
    file.sync_all().map_err(Fault::of_disk)
}

/// Why bytes do not come any more.
fn broken_off(fault: std::io::Error) -> String {
    match ureq::Error::from(fault) {
        ureq::Error::Timeout(_) => "the server went silent".into(),
        other => other.to_string(),
    }
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
        let n = from
            .read(&mut buffer)
            .map_err(|e| Fault::again(broken_off(e)))?;
        if n == 0 {
            return Ok(());
        }
        if position + n as u64 > most {
            let text = format!("the server sends more than the {most} bytes that it announced");
            return Err(Fault::new(text, true));
        }
        to.write_all(&buffer[..n]).map_err(Fault::of_disk)?;
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

    /// Serves six bytes, of which it sends two, one and three, and goes silent in between; gives the
    /// address, and where each request began.
    fn server() -> (String, std::sync::mpsc::Receiver<usize>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sender, asked) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for mut stream in listener.incoming().flatten() {
                let Some(start) = asked_from(&mut stream) else {
                    continue;
                };
                if sender.send(start).is_err() {
                    return;
                }
                let status = if start == 0 {
                    "200 OK"
                } else {
                    "206 Partial Content"
                };
                let sent = match start {
                    0 => "ab",
                    2 => "c",
                    _ => &"abcdef"[start..],
                };
                let left = 6 - start;
                // A client that was kept waiting may have given up.
                let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {left}\r\n\r\n{sent}");
                drop(stream.write_all(answer.as_bytes()));
                open.push(stream);
            }
        });
        (format!("http://{address}/x"), asked)
    }

    /// Where a request wants the file to begin; none where it breaks off.
    fn asked_from(stream: &mut std::net::TcpStream) -> Option<usize> {
        let (mut request, mut byte) = (Vec::new(), [0]);
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            request.push(byte[0]);
        }
        let request = String::from_utf8_lossy(&request).to_lowercase();
        let range = request
            .split_once("range: bytes=")
            .and_then(|(_, range)| range.split_once('-'));
        Some(range.map_or(0, |(start, _)| start.parse().expect("a number")))
    }

    #[test]
    fn a_server_that_goes_silent_is_left_and_the_transfer_goes_on_where_it_broke_off() {
        let home = tempfile::tempdir().expect("a folder");
        let partial = home.path().join("x.partial");
        let (url, asked) = server();
        let wanted = Wanted {
            what: "x",
            url: &url,
            bytes: 6,
            sha256: None,
            token: None,
        };
        let mut silences = 0;
        // A machine that is busy may take longer than the bound for what is sent, and tries again.
        while let Err(fault) = go_on(
            &agent_with(Duration::from_millis(300)),
            &wanted,
            &partial,
            &Nobody,
        ) {
            if fault.text.contains("went silent") {
                assert!(!fault.is_final);
                silences += 1;
            }
        }
        assert_eq!(fs::read(&partial).expect("a file"), b"abcdef");
        let starts: Vec<usize> = asked.try_iter().collect();
        assert!(silences >= 2, "{silences} {starts:?}");
        assert!(
            starts.is_sorted() && starts.contains(&2) && starts.contains(&3),
            "{starts:?}"
        );
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
        let free = platform::disk_free(home.path()).expect("a disk");
        // Also what would leave nothing.
        assert!(platform::disk_reserve(home.path()) > 0);
        for bytes in [u64::MAX / 2, free] {
            let refused = has_room(&wanted(bytes), &partial);
            assert!(refused.is_err_and(|fault| fault.code() == Code::DiskFull));
        }
    }
}
