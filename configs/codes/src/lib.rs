//! Every error code of every program, with its meaning.
//!
//! A code keeps its meaning for good, and the number of a removed code is not used again. The way
//! out of a fault is not here: it depends on more than the code, so the error itself tells it.

use std::{fmt, io};

macro_rules! codes {
    ($($name:ident = $id:literal, $meaning:literal;)*) => {
        /// A kind of fault or warning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $meaning] $name,)*
        }

        impl Code {
            /// All codes, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// `Q` and four digits, as messages, the protocol and recorded jobs have it.
            pub const fn id(self) -> &'static str {
                match self {
                    $(Self::$name => $id,)*
                }
            }

            /// The meaning, in whole sentences; `qlora-ctl explain` prints it.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => $meaning,)*
                }
            }
        }
    };
}

codes! {
    // Command line
    Usage = "Q0001",
        "The command line asks for something that cannot be done. The message names it.";
    // Configuration
    NotYaml = "Q0100",
        "The configuration file is not YAML, or gives a key twice. The message names the lines.";
    UnknownKey = "Q0101",
        "A key is not known. Keys stand in docs/reference/config.md; the nearest known key is suggested.";
    RecordedConfig = "Q0102",
        "A recorded configuration cannot be read, mostly because another version wrote it.";
    InvalidValue = "Q0103",
        "A value is outside its range, or does not go with another one.";
    SetSyntax = "Q0104",
        "--set needs key=value, such as --set lora.r=8.";
    UnknownPreset = "Q0105",
        "extends: takes h100, m4 or cpu.";
    MissingKey = "Q0106",
        "A key is missing that has no default.";
    UnknownWord = "Q0107",
        "A value is not one of the words that the key takes.";
    WrongType = "Q0108",
        "A value has the wrong type, such as text where a number belongs.";
    IdleKey = "Q0109",
        "A key has no effect, because another key or the length of the run overrules it. docs/reference/config.md lists all such keys.";
    // Training data
    InvalidRow = "Q0203",
        "A row of the data is no conversation, or no row of a file can be trained on. A row is {\"messages\": [{\"role\": ..., \"content\": ...}], \"tools\": [...]}.";
    ChatTemplate = "Q0204",
        "The chat template cannot render a row, or leaves out a part of it. The message names the row and the part; data.template takes another template.";
    UnreadKey = "Q0205",
        "Rows have keys that nothing reads, which is a warning. A misspelled key is one of them: what it says is not trained on.";
    // Models, devices, memory
    DoesNotFit = "Q0301",
        "The run needs more memory than the device has. The message says what would fit.";
    NoModel = "Q0302",
        "The model cannot be found or fetched.";
    NoDevice = "Q0303",
        "The device that was asked for is not here, or the worker was built without it.";
    OutOfMemory = "Q0304",
        "The device's memory ran out while the run was going on. The message says what would need less.";
    // Coordinator and connections
    Unreachable = "Q0401",
        "No coordinator answers. It is not running, or the address or the network is wrong.";
    Connection = "Q0402",
        "The address, the token or its file cannot be used as it is given. The message says which.";
    Refused = "Q0403",
        "The coordinator answers and refuses: a name that is taken, a job that is not there, a host that it does not go by, a token whose role may not do this.";
    TokenRefused = "Q0404",
        "The coordinator does not take the token, or the call brought none. A token that was given out may have expired, or was revoked: an admin makes another one. The coordinator's own token is the first line of the file `token` in its state folder, or of the file that its --token-file names. Programs that the same user runs on the same machine find it by themselves; others are given it by --token-file or QLORA_TOKEN.";
    Listen = "Q0405",
        "The coordinator cannot listen on its address.";
    TokenFile = "Q0407",
        "The coordinator's token file cannot be used: it is missing, too short, open to everybody, or cannot be made.";
    NoStateFolder = "Q0408",
        "Neither HOME nor --state-dir says where state may lie.";
    StateInUse = "Q0409",
        "Two workers cannot share one state folder, and two coordinators neither one state folder nor, unless one waits for the other, one database.";
    CoordinatorTrouble = "Q0410",
        "The coordinator answers and has trouble of its own, such as a full disk. What it acknowledged is safe.";
    Certificate = "Q0411",
        "A certificate, its key or the certificate of a CA cannot be used as it is given: the file is missing or damaged, everybody can read the key, it has expired, or the two do not belong together. The message names the file.";
    Untrusted = "Q0412",
        "The two ends of a connection do not agree on TLS: a certificate is of another CA or for another name, or has expired, or one end speaks TLS and the other does not. The message says which.";
    Unencrypted = "Q0413",
        "The coordinator would listen beyond its machine without TLS, where others can read what passes, tokens too. qlora-coordinator init makes what TLS needs.";
    DatabaseUrl = "Q0421",
        "The coordinator's --database or QLORA_DATABASE_URL names no PostgreSQL database.";
    Deposed = "Q0422",
        "The coordinator lost the lock of its PostgreSQL database, and ended. What it acknowledged is safe; another coordinator takes its place, or this one does once it is started again.";
    // Jobs and training
    JobFailed = "Q0501",
        "The job failed. Its log says at which step and why.";
    JobCancelled = "Q0503",
        "The job was cancelled; its last checkpoint is kept.";
    WaitTimedOut = "Q0504",
        "The job did not end within the time that was given. It goes on.";
    InvalidModel = "Q0511",
        "The model's files cannot be used as they are: one is missing, cut off or not of its format, two do not agree, or a text does not go with them. Download the model again, or repair what the message names.";
    Adapter = "Q0512",
        "The adapter cannot be used: it was made in a way that is not read here, or for another model.";
    Checkpoint = "Q0513",
        "A checkpoint cannot be read or written, or belongs to another configuration.";
    Export = "Q0514",
        "A model or an adapter cannot be exported as asked, such as in an element type that cannot hold its values.";
    NotFinite = "Q0515",
        "Training or scoring cannot go on: values are not finite, or gradients reach no adapter. Lower training.learning_rate, or look for a broken row with qlora-ctl data check.";
    ProcessGroup = "Q0516",
        "The workers that train a job together cannot reach each other, or do not work on the same.";
    Computation = "Q0517",
        "A computation failed on the device. The message is the device's own.";
    UnsupportedModel = "Q0518",
        "The model is whole, and of a kind that is not read here: another architecture, a setting of it that is not carried out, another quantization or file format. docs/reference/models.md lists what is; take another model or another form of it.";
    // Files, stores, programs
    StateFolder = "Q0601",
        "The state folder or the database in it cannot be used.";
    ArtifactStore = "Q0602",
        "The artifact store cannot be used; often its disk is full, or its bucket refuses.";
    Telemetry = "Q0603",
        "Telemetry cannot start; the OTEL_* variables name a receiver that cannot be used.";
    Serve = "Q0604",
        "The coordinator cannot serve: its address file cannot be written, or its network failed.";
    File = "Q0605",
        "A file cannot be read or written.";
    Program = "Q0606",
        "A program that quickstart starts did not come up.";
    DiskFull = "Q0607",
        "A disk is full. The message names the file; nothing that was acknowledged is lost.";
    Interrupted = "Q0608",
        "The command was interrupted by a signal; what it had begun is removed.";
}

impl Code {
    /// The code that `id` names, in letters of either case.
    pub fn find(id: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|code| code.id().eq_ignore_ascii_case(id))
    }
}

impl Code {
    /// The code of a file that cannot be read or written.
    pub fn of_file(fault: &io::Error) -> Self {
        match fault.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::File,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id())
    }
}

/// For what is written down or sent: there a code is text.
impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.id().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_in_the_order_of_their_four_digits_and_each_has_its_own_meaning() {
        for code in Code::ALL {
            let digits = code.id().strip_prefix('Q').expect("a Q");
            assert!(digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit()));
            assert!(code.meaning().ends_with('.'), "{code}");
        }
        assert!(Code::ALL.is_sorted_by(|a, b| a.id() < b.id()));
        let mut meanings: Vec<&str> = Code::ALL.iter().map(|code| code.meaning()).collect();
        meanings.sort_unstable();
        meanings.dedup();
        assert_eq!(meanings.len(), Code::ALL.len());
    }

    #[test]
    fn every_code_is_found_by_its_text_and_no_other_text_is_a_code() {
        for code in Code::ALL {
            assert_eq!(Code::find(code.id()), Some(*code));
            assert_eq!(Code::find(&code.to_string().to_lowercase()), Some(*code));
        }
        for other in ["", "Q", "Q010", "Q01010", "0101", "Q9999"] {
            assert_eq!(Code::find(other), None, "{other}");
        }
    }

    #[test]
    fn a_full_disk_and_a_used_up_quota_have_their_own_code() {
        for (kind, code) in [
            (io::ErrorKind::StorageFull, Code::DiskFull),
            (io::ErrorKind::QuotaExceeded, Code::DiskFull),
            (io::ErrorKind::PermissionDenied, Code::File),
            (io::ErrorKind::NotFound, Code::File),
        ] {
            assert_eq!(Code::of_file(&kind.into()), code, "{kind}");
        }
    }

    /// docs/reference/errors.md lists every code with its meaning, and no other.
    #[test]
    fn the_page_of_error_codes_lists_every_code_with_its_meaning() {
        let page = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/reference/errors.md"
        );
        #[expect(
            clippy::disallowed_methods,
            reason = "the test holds a file of the repository"
        )]
        let page = std::fs::read_to_string(page).expect("the page");
        let listed: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("| Q"))
            .collect();
        let codes = Code::ALL
            .iter()
            .map(|code| format!("| {code} | {} |", code.meaning().replace('|', "\\|")));
        assert_eq!(listed, codes.collect::<Vec<_>>());
    }
}
