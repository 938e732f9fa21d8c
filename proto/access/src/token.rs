//! A token: a secret line of text that gives access. The one that a state folder keeps gives all of
//! it.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use subtle::ConstantTimeEq;

/// Fewer characters than this can be guessed.
const LEAST_LENGTH: usize = 16;
/// Bytes of a token file at the most: no header takes a longer token, and a device has no end.
const LARGEST: usize = 4096;
/// Bytes of a token that is made here.
const BYTES: usize = 32;
/// The token's name in a state folder.
const FILE: &str = "token";
/// How the text of a token begins that is given out, so that people and scanners of secrets know it.
const PREFIX: &str = "qlora_";

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token file {path} cannot be read: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the token in {place} is empty")]
    Empty { place: String },
    #[error("the token in {place} has more than {LARGEST} bytes")]
    TooLong { place: String },
    #[error("the token in {place} holds a space, a control character or one beyond ASCII")]
    Character { place: String },
    #[error("the token in {path} has {length} characters; at least {LEAST_LENGTH} are needed")]
    TooShort { path: PathBuf, length: usize },
    #[error("every user of this machine can {} the token file {path} (mode {mode:o})", if mode & 0o002 == 0 { "read" } else { "read or change" })]
    Exposed { path: PathBuf, mode: u32 },
    #[error("no token can be made at {path}: {source}")]
    Make {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the system gives no random bytes: {0}")]
    Random(std::io::Error),
}

impl TokenError {
    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::Read { .. } => "give --token-file a file that this user can read".into(),
            Self::TooLong { .. } => {
                "give a file that holds the token alone, on its first line".into()
            }
            Self::Empty { .. } | Self::Character { .. } => {
                "write the token on the first line: visible ASCII characters without spaces".into()
            }
            Self::TooShort { path, .. } => {
                format!(
                    "write a longer one, such as: openssl rand -hex 32 > {}",
                    path.display()
                )
            }
            Self::Exposed { path, .. } => format!(
                "others may have read it: delete the file and a new token is made at the next start, or keep it with: chmod 600 {}",
                path.display()
            ),
            Self::Make { .. } => "the state folder must be writable and have room".into(),
            Self::Random(_) => "try again".into(),
        }
    }
}

/// The secret. It does not show in debug output.
#[derive(Clone)]
pub struct Token(Arc<str>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Token {
    /// The first line of `text`; `place` says in errors where the text is from.
    ///
    /// # Errors
    /// The line is empty or cannot be sent in a header.
    pub fn parse(text: &str, place: &str) -> Result<Self, TokenError> {
        // Editors of other systems put a mark of byte order before the text.
        let text = text.trim_start_matches('\u{feff}');
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() {
            return Err(TokenError::Empty {
                place: place.into(),
            });
        }
        if line.len() > LARGEST {
            return Err(TokenError::TooLong {
                place: place.into(),
            });
        }
        if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Character {
                place: place.into(),
            });
        }
        Ok(Self(line.into()))
    }

    /// Reads a token file of a client.
    ///
    /// # Errors
    /// The file cannot be read, or holds no token, or more than one has.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let fault = |source| TokenError::Read {
            path: path.into(),
            source,
        };
        let place = path.display().to_string();
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(fault)?;
        file.take(LARGEST as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(fault)?;
        if bytes.len() > LARGEST {
            return Err(TokenError::TooLong { place });
        }
        let text = String::from_utf8(bytes)
            .map_err(|other| fault(io::Error::new(ErrorKind::InvalidData, other)))?;
        Self::parse(&text, &place)
    }

    /// Reads the token file of a coordinator, which must be hard to guess too.
    ///
    /// # Errors
    /// As [`Self::read`], or the token is short.
    pub fn read_strong(path: &Path) -> Result<Self, TokenError> {
        let token = Self::read(path)?;
        match token.0.len() {
            LEAST_LENGTH.. => Ok(token),
            length => Err(TokenError::TooShort {
                path: path.into(),
                length,
            }),
        }
    }

    /// What to say of a token file that every user of the machine can read or change. Such a file
    /// is used all the same: secrets that a container is given often have this mode.
    pub fn exposure(path: &Path) -> Option<String> {
        let mode = fs::metadata(path)
            .ok()
            .filter(fs::Metadata::is_file)?
            .permissions()
            .mode();
        let exposed = TokenError::Exposed {
            path: path.into(),
            mode: mode & 0o777,
        };
        // What is no token is refused, and is no secret.
        let is_token = || Self::read_strong(path).is_ok();
        (is_exposed(mode) && is_token()).then(|| format!("{exposed}; chmod 600 {}", path.display()))
    }

    /// The token of the state folder `folder`; made where there is none yet. Of several processes
    /// that find none, all take the one that is there first.
    ///
    /// # Errors
    /// The token cannot be read or written, or everybody can read it.
    pub fn keep(folder: &Path) -> Result<Self, TokenError> {
        let path = Self::path(folder);
        match fs::metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => match make(folder, &path) {
                // Another process has made one meanwhile. It is whole: it has its name.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    sync(folder).map_err(|source| TokenError::Make {
                        path: path.clone(),
                        source,
                    })?;
                    Self::read_strong(&path)
                }
                made => made.map_err(|source| TokenError::Make { path, source }),
            },
            Err(source) => Err(TokenError::Read { path, source }),
            Ok(found) if is_exposed(found.permissions().mode()) => Err(TokenError::Exposed {
                path,
                mode: found.permissions().mode() & 0o777,
            }),
            Ok(_) => Self::read_strong(&path),
        }
    }

    /// A token to give out.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn issue() -> Result<Self, TokenError> {
        let secret = random().map_err(TokenError::Random)?;
        Ok(Self(format!("{PREFIX}{secret}").into()))
    }

    /// Where a state folder keeps its token.
    pub fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    /// The text to send. Never log it.
    pub fn secret(&self) -> &str {
        &self.0
    }

    /// Compares in time that does not depend on where the texts differ.
    pub fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// A group may have been let in on purpose, such as Prometheus's.
pub(crate) fn is_exposed(mode: u32) -> bool {
    mode & 0o007 != 0
}

/// As many random bytes as nobody can guess, as text.
fn random() -> std::io::Result<String> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(hex::encode(bytes))
}

/// Writes a new token under another name, readable by its owner only, and gives it its name when it
/// is complete.
fn make(folder: &Path, path: &Path) -> std::io::Result<Token> {
    let secret = random()?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    writeln!(file, "{secret}")?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path).map_err(|e| e.error)?;
    sync(folder)?;
    Ok(Token(secret.into()))
}

/// Makes the names in `folder` durable.
fn sync(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_a_folder_and_only_its_owner_can_read_it() {
        let (one, two) = (
            tempfile::tempdir().expect("a folder"),
            tempfile::tempdir().expect("a folder"),
        );
        let made = Token::keep(one.path()).expect("a token");
        assert_eq!(made.secret().len(), 64);
        assert!(
            Token::keep(one.path())
                .expect("the same token")
                .is(made.secret())
        );
        assert!(
            !Token::keep(two.path())
                .expect("another token")
                .is(made.secret())
        );
        let mode = fs::metadata(one.path().join("token"))
            .expect("a file")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let left: Vec<_> = fs::read_dir(one.path())
            .expect("a folder")
            .filter_map(|e| Some(e.ok()?.file_name()))
            .collect();
        assert_eq!(left, ["token"]);
    }

    #[test]
    fn several_that_start_at_once_on_a_new_folder_have_one_token() {
        // Whoever is late finds it before it looks: many rounds make one that is not.
        for _ in 0..50 {
            let folder = tempfile::tempdir().expect("a folder");
            let gate = std::sync::Barrier::new(8);
            let keep = || {
                gate.wait();
                Token::keep(folder.path()).expect("a token")
            };
            let kept: Vec<Token> = std::thread::scope(|scope| {
                let all: Vec<_> = (0..8).map(|_| scope.spawn(keep)).collect();
                let ended = all.into_iter().map(|one| one.join().expect("no panic"));
                ended.collect()
            });
            assert!(kept.iter().all(|token| token.is(kept[0].secret())));
        }
    }

    #[test]
    fn a_token_that_is_given_out_has_a_prefix_and_256_random_bits() {
        let [one, two] = [(); 2].map(|()| Token::issue().expect("a token"));
        let random = one.secret().strip_prefix("qlora_").expect("the prefix");
        assert!(random.len() == 64 && random.bytes().all(|b| b.is_ascii_hexdigit()));
        assert!(!one.is(two.secret()));
        assert!(Token::parse(one.secret(), "x").is_ok());
    }

    #[test]
    fn a_kept_token_that_all_can_read_or_that_is_short_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let write = |text: &str, mode: u32| {
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        };
        write("a-secret-of-some-length\n", 0o640);
        assert!(
            Token::keep(folder.path())
                .expect("a group may read")
                .is("a-secret-of-some-length")
        );
        for mode in [0o644, 0o602, 0o601] {
            write("a-secret-of-some-length\n", mode);
            let fault = Token::keep(folder.path()).expect_err("a refusal");
            assert!(
                matches!(fault, TokenError::Exposed { .. }) && fault.help().contains("chmod 600"),
                "{fault}"
            );
        }
        write("fifteen-letters\n", 0o600);
        let fault = Token::keep(folder.path()).expect_err("a refusal");
        assert!(
            fault.to_string().contains("15 characters") && fault.help().contains("openssl"),
            "{fault}"
        );
        write("", 0o600);
        assert!(matches!(
            Token::keep(folder.path()),
            Err(TokenError::Empty { .. })
        ));
    }

    #[test]
    fn a_given_file_that_all_can_read_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("given");
        fs::write(&path, "a-secret-of-some-length\n").expect("a file");
        for (mode, is_told) in [
            (0o600, false),
            (0o400, false),
            (0o640, false),
            (0o644, true),
            (0o602, true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
            let told = Token::exposure(&path);
            assert_eq!(told.is_some(), is_told, "{mode:o}: {told:?}");
            assert!(
                told.is_none_or(|told| told.contains(&format!("chmod 600 {}", path.display())))
            );
        }
        assert_eq!(Token::exposure(&folder.path().join("none")), None);
    }

    #[test]
    fn a_mark_of_byte_order_is_no_part_of_a_token() {
        let token = Token::parse("\u{feff}a-secret-of-mine\r\n", "x").expect("a token");
        assert_eq!(token.secret(), "a-secret-of-mine");
        assert!(Token::parse("\u{feff}", "x").is_err());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_by_name() {
        for text in ["", "\n", "   \nsecond-line-is-no-token"] {
            assert!(
                matches!(Token::parse(text, "F"), Err(TokenError::Empty { .. })),
                "{text:?}"
            );
        }
        for text in [
            "two words of text",
            "umlaut-ü-of-some-length",
            "bell-\u{7}-of-some-length",
        ] {
            let fault = Token::parse(text, "QLORA_TOKEN").expect_err("a refusal");
            assert!(fault.to_string().contains("QLORA_TOKEN"), "{fault}");
        }
        let token = Token::parse(" a+b/c==\r\nmore", "F").expect("a token");
        assert_eq!(token.secret(), "a+b/c==");
    }

    #[test]
    fn a_file_that_is_longer_than_a_token_is_refused_and_not_read_to_its_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        fs::write(&path, "a".repeat(LARGEST)).expect("a file");
        assert!(Token::read(&path).is_ok());
        fs::write(&path, "a".repeat(LARGEST + 1)).expect("a file");
        // The second has no end.
        for path in [&path, Path::new("/dev/zero")] {
            let fault = Token::read(path).expect_err("a refusal");
            assert!(matches!(fault, TokenError::TooLong { .. }), "{fault}");
        }
        let fault = Token::parse(&"a".repeat(LARGEST + 1), "F").expect_err("a refusal");
        assert!(matches!(fault, TokenError::TooLong { .. }), "{fault}");
    }

    #[test]
    fn a_token_is_only_itself_and_shows_in_no_debug_output() {
        let token = Token::parse("a-secret-of-some-length", "F").expect("a token");
        assert!(token.is("a-secret-of-some-length"));
        for other in [
            "",
            "a-secret-of-some-lengt",
            "a-secret-of-some-lengtH",
            "a-secret-of-some-length1",
        ] {
            assert!(!token.is(other), "{other}");
        }
        assert!(!format!("{token:?}").contains("secret"));
    }
}
