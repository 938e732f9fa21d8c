//! Files as they are opened: plain ones only, since a pipe or a device has no end that a reader
//! waits for, and texts in UTF-8.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Why a file is not opened, or is no text.
#[derive(Debug, thiserror::Error)]
pub enum Unopened {
    #[error("it {0}; put the file itself there")]
    NotPlain(String),
    #[error("it {0}; save it as UTF-8")]
    NotText(String),
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Why what lies at `path` is no file to open; none of a plain one, of a link to one, and where
/// nothing lies.
pub fn fault(path: &Path) -> Option<String> {
    let kind = match fs::metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let to = fs::read_link(path).ok()?;
            return Some(format!("is a link to {}, which is not there", to.display()));
        }
        // Opening it tells.
        Err(_) => return None,
    };
    let kind = if kind.is_file() {
        return None;
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Some(format!("is {kind}, not a file"))
}

/// The text of a file.
///
/// # Errors
/// It is missing, no plain file, or not in UTF-8.
pub fn text(path: &Path) -> Result<String, Unopened> {
    if let Some(fault) = fault(path) {
        return Err(Unopened::NotPlain(fault));
    }
    decoded(fs::read(path)?).map_err(Unopened::NotText)
}

/// `bytes` as text.
///
/// # Errors
/// They are in another encoding, which the fault names where it can be told.
pub fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    if let Some(encoding) = foreign_encoding(&bytes) {
        return Err(format!("is {encoding}"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let byte = e.as_bytes().get(at).copied().unwrap_or_default();
        format!("is not UTF-8: byte 0x{byte:02x} at {at}")
    })
}

/// The encoding that the first four bytes of a text show, where it is not UTF-8.
pub(crate) fn foreign_encoding(start: &[u8]) -> Option<&'static str> {
    match start {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Some("UTF-32"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
        // Every text here begins with a character of ASCII, or with a byte order mark: none of its
        // characters is a zero byte in UTF-8.
        [0, 0, 0, _, ..] | [_, 0, 0, 0, ..] => Some("UTF-32"),
        [0, ..] | [_, 0, ..] => Some("UTF-16"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_by_their_first_bytes() {
        let text = "{\"a\": \"\u{e9}\"}";
        let wide = |bytes: fn(u16) -> [u8; 2], mark: &[u8]| {
            let body = text.encode_utf16().flat_map(bytes);
            mark.iter().copied().chain(body).collect::<Vec<u8>>()
        };
        let widest = |bytes: fn(u32) -> [u8; 4], mark: &[u8]| {
            let body = text.chars().flat_map(|c| bytes(u32::from(c)));
            mark.iter().copied().chain(body).collect::<Vec<u8>>()
        };
        for (bytes, name) in [
            (wide(u16::to_le_bytes, &[]), "UTF-16"),
            (wide(u16::to_be_bytes, &[]), "UTF-16"),
            (wide(u16::to_le_bytes, &[0xff, 0xfe]), "UTF-16"),
            (wide(u16::to_be_bytes, &[0xfe, 0xff]), "UTF-16"),
            (widest(u32::to_le_bytes, &[]), "UTF-32"),
            (widest(u32::to_be_bytes, &[]), "UTF-32"),
            (widest(u32::to_le_bytes, &[0xff, 0xfe, 0, 0]), "UTF-32"),
            (widest(u32::to_be_bytes, &[0, 0, 0xfe, 0xff]), "UTF-32"),
            (b"{\"a\": \"\xe9\"}".to_vec(), "byte 0xe9 at 7"),
        ] {
            let fault = decoded(bytes).expect_err(name);
            assert!(fault.contains(name), "{fault}");
        }
        for text in ["", "{", "{}", "\u{feff}{}", text] {
            assert_eq!(decoded(text.into()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn only_plain_files_and_links_to_them_are_opened() {
        let home = tempfile::tempdir().expect("a folder");
        let at = |name: &str| home.path().join(name);
        fs::write(at("plain"), "x").expect("a file");
        std::os::unix::fs::symlink(at("plain"), at("good")).expect("a link");
        std::os::unix::fs::symlink("gone", at("bad")).expect("a link");
        let socket = std::os::unix::net::UnixListener::bind(at("socket")).expect("a socket");
        for name in ["plain", "good", "nothing"] {
            assert_eq!(fault(&at(name)), None, "{name}");
        }
        for (path, told) in [
            (at("bad"), "is a link to gone, which is not there"),
            (home.path().into(), "is a folder"),
            (at("socket"), "is a socket"),
            ("/dev/zero".into(), "is a device"),
        ] {
            let fault = fault(&path).expect(told);
            assert!(fault.contains(told), "{fault}");
        }
        drop(socket);
    }
}
