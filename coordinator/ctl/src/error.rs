//! Errors of the command line: a code, a message, a way out, and an exit code.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use qlora_client::files::no_access;
use qlora_client::{ConnectError, Fault, LinkFault, TransferError, console};
use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic};
use qlora_proto::words::{count, duration};
use qlora_proto::{LED_BY, STANDBY};

/// What the program returns to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    Done = 0,
    JobFailed = 1,
    Usage = 2,
    BadInput = 3,
    Unreachable = 4,
    Refused = 5,
    WillNotFit = 6,
    Stopped = 7,
    TimedOut = 124,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("{0}")]
    Connect(#[from] ConnectError),
    #[error("no coordinator at {address} ({fault})")]
    Unreachable { address: String, fault: String },
    #[error("no connection to {address}: {fault}")]
    Link { address: String, fault: LinkFault },
    #[error("the coordinator at {address} cannot do this now: {message}")]
    Trouble { address: String, message: String },
    #[error("{message}")]
    Refused {
        message: String,
        help: &'static str,
        exit: Exit,
    },
    /// The reader of stdout is gone, as after `| head -1`: it has what it wanted.
    #[error("nobody reads the output")]
    OutputClosed,
    #[error("{message}")]
    Token { message: String, help: &'static str },
    #[error("{}", no_access(path, source))]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path}:{line}: the text is not UTF-8")]
    NotText { path: PathBuf, line: usize },
    #[error("`{key}` ({place}): there is no file {path}")]
    NoInput {
        key: &'static str,
        place: String,
        path: PathBuf,
    },
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error("{message}")]
    Data { message: String, help: String },
    /// A row that the template or the tokenizer of a model does not take.
    #[error("{message}")]
    Unencoded { code: Code, message: String },
    #[error("{}", rows_at_fault(name, *rows, *faulty, *findings, shown))]
    Rows {
        name: String,
        rows: usize,
        faulty: usize,
        findings: usize,
        shown: Vec<RowFault>,
    },
    #[error("{}", with_rows(unrendered(name, *rows, *faulty), shown, 0))]
    Unrendered {
        name: String,
        rows: usize,
        faulty: usize,
        /// Of the first fault.
        code: Code,
        shown: Vec<RowFault>,
    },
    /// Rows that `data.too_long: error` refuses.
    #[error("{}", with_rows(too_long(name, *rows, *faulty, *limit), shown, 0))]
    TooLong {
        name: String,
        rows: usize,
        faulty: usize,
        /// Tokens.
        limit: usize,
        shown: Vec<RowFault>,
    },
    #[error("{message}")]
    NoModel {
        message: String,
        help: String,
        code: Option<String>,
    },
    #[error("{message}")]
    Usage { message: String, help: String },
    #[error("{0}")]
    Telemetry(#[from] qlora_telemetry::SetupError),
    #[error("{what} {fault}")]
    Process {
        what: String,
        fault: String,
        help: String,
    },
    #[error("job {job} failed: {reason}")]
    JobFailed {
        job: u64,
        reason: String,
        saved: bool,
    },
    #[error("job {job} was cancelled: {reason}")]
    JobCancelled {
        job: u64,
        reason: String,
        saved: bool,
    },
    #[error(transparent)]
    DoesNotFit(#[from] qlora_planner::DoesNotFit),
    #[error("job {job} did not end within {}; it goes on", duration(*seconds as f64))]
    TimedOut { job: u64, seconds: u64 },
}

/// What writing to stdout came to.
impl From<std::io::Error> for CtlError {
    fn from(source: std::io::Error) -> Self {
        match source.kind() {
            ErrorKind::BrokenPipe => Self::OutputClosed,
            _ => Self::Io {
                path: "stdout".into(),
                source,
            },
        }
    }
}

impl CtlError {
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io {
            path: path.into(),
            source,
        }
    }

    /// A file of rows that cannot be read.
    pub fn unreadable(fault: &dyn std::error::Error) -> Self {
        Self::Data {
            message: fault.to_string(),
            help: "rows are JSON lines, a JSON array or Parquet".into(),
        }
    }

    /// `qlora-ctl explain CODE` prints its meaning; of a configuration, that of its first fault.
    pub fn code(&self) -> Code {
        match self {
            Self::Config(errors) => errors.code(),
            Self::NotText { .. } => Code::NotYaml,
            Self::Data { .. } | Self::Rows { .. } | Self::TooLong { .. } => Code::InvalidRow,
            Self::Unrendered { code, .. } | Self::Unencoded { code, .. } => *code,
            Self::Usage { .. } => Code::Usage,
            Self::NoModel { .. } => Code::NoModel,
            Self::DoesNotFit(_) => Code::DoesNotFit,
            Self::Unreachable { .. } => Code::Unreachable,
            Self::Trouble { .. } => Code::CoordinatorTrouble,
            Self::Connect(fault) => fault.code(),
            Self::Link { fault, .. } => fault.code(),
            Self::Refused { .. } => Code::Refused,
            Self::Token { .. } => Code::TokenRefused,
            Self::JobFailed { .. } => Code::JobFailed,
            Self::JobCancelled { .. } => Code::JobCancelled,
            Self::TimedOut { .. } => Code::WaitTimedOut,
            Self::Io { source, .. } => Code::of_file(source),
            Self::Transfer(fault) => fault.code(),
            Self::NoInput { .. } | Self::OutputClosed => Code::File,
            Self::Telemetry(fault) => fault.code(),
            Self::Process { .. } => Code::Program,
        }
    }

    pub fn help(&self) -> String {
        match self {
            Self::Unreachable { .. } => {
                "start one with qlora-coordinator, or give --coordinator ADDR or QLORA_URL".into()
            }
            Self::Trouble { message, .. } if message.starts_with(STANDBY) && message.contains(LED_BY) => {
                "give --coordinator the leader's address, or with commas those of all coordinators of its database".into()
            }
            Self::Trouble { .. } => {
                "try again; the coordinator's log and disk show what is wrong, and nothing that it acknowledged is lost"
                    .into()
            }
            Self::Connect(fault) => fault.help(),
            Self::Link { fault, .. } => fault.help().into(),
            Self::NoInput { key: "data.eval", .. } => {
                "fix the path or remove the key; --set data.eval=null removes it".into()
            }
            Self::NoInput { .. } => "fix the path".into(),
            Self::Io { source, .. } if source.kind() == ErrorKind::NotFound => "fix the path".into(),
            Self::NotText { .. } => "save the file as UTF-8".into(),
            Self::Telemetry(_) => "unset the OTEL_* variables, or fix them".into(),
            Self::Refused { help, .. } | Self::Token { help, .. } => (*help).into(),
            Self::Data { help, .. }
            | Self::NoModel { help, .. }
            | Self::Process { help, .. }
            | Self::Usage { help, .. } => help.clone(),
            Self::Unencoded { .. } => "qlora-ctl data check lists every fault".into(),
            Self::Rows { name, .. } => {
                format!("qlora-ctl data check {name} --fix FILE lists every finding and writes the other rows")
            }
            Self::Unrendered { code: Code::InvalidModel, .. } => {
                "take the tokenizer.json that the model was published with".into()
            }
            Self::Unrendered { .. } => {
                "fix the rows, or set data.template: chatml-tools or Jinja text; qlora-ctl data check --model looks at every row".into()
            }
            Self::TooLong { .. } => {
                "raise data.max_seq_len, or set data.too_long: truncate or skip".into()
            }
            Self::JobFailed { job, saved, .. } => {
                let logs = format!("qlora-ctl logs {job} shows what happened");
                if *saved { format!("{logs}; {}", rescue(*job)) } else { logs }
            }
            Self::JobCancelled { job, saved: true, .. } => rescue(*job),
            Self::TimedOut { job, .. } => format!("qlora-ctl watch {job} attaches again"),
            _ => String::new(),
        }
    }

    /// Every fault by itself: those of a configuration, of rows, and those that the coordinator
    /// tells with their codes.
    pub fn faults(&self) -> Vec<Fault> {
        let own = || Fault::new(self.code(), self.to_string(), self.help());
        match self {
            Self::NoModel {
                code: Some(code), ..
            } => vec![Fault {
                code: code.clone(),
                ..own()
            }],
            Self::Config(errors) => errors.0.iter().map(fault_of).collect(),
            Self::Rows {
                name,
                rows,
                faulty,
                shown,
                ..
            } => self.each(name, some_of(name, *rows, *faulty), shown),
            Self::Unrendered {
                name,
                rows,
                faulty,
                shown,
                ..
            } => self.each(name, unrendered(name, *rows, *faulty), shown),
            Self::TooLong {
                name,
                rows,
                faulty,
                limit,
                shown,
            } => self.each(name, too_long(name, *rows, *faulty, *limit), shown),
            Self::Refused { message, .. } => {
                let told = Fault::parse(message);
                if told.is_empty() { vec![own()] } else { told }
            }
            Self::NoInput { place, .. } => vec![Fault {
                place: Some(place.clone()),
                ..own()
            }],
            _ => vec![own()],
        }
    }

    /// A fault of a file, and one for each row.
    fn each(&self, name: &str, message: String, shown: &[RowFault]) -> Vec<Fault> {
        let head = Fault {
            place: Some(name.to_owned()),
            ..Fault::new(self.code(), message, self.help())
        };
        let row = |row: &RowFault| Fault {
            place: Some(row.place.clone()),
            ..Fault::new(self.code(), row.text.clone(), String::new())
        };
        std::iter::once(head).chain(shown.iter().map(row)).collect()
    }

    /// Whether nobody answered.
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Link { .. } | Self::Connect(_)
        )
    }

    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::OutputClosed => Exit::Done,
            Self::Config(_)
            | Self::NotText { .. }
            | Self::Data { .. }
            | Self::Unencoded { .. }
            | Self::Rows { .. }
            | Self::Unrendered { .. }
            | Self::TooLong { .. }
            | Self::NoModel { .. } => Exit::BadInput,
            Self::Connect(_) | Self::Usage { .. } | Self::Telemetry(_) => Exit::Usage,
            Self::Unreachable { .. } | Self::Link { .. } | Self::Trouble { .. } => {
                Exit::Unreachable
            }
            Self::Refused { exit, .. } => *exit,
            Self::Token { .. } => Exit::Refused,
            Self::Io { .. } | Self::NoInput { .. } | Self::Transfer(TransferError::Io { .. }) => {
                Exit::BadInput
            }
            Self::Transfer(TransferError::Refused(_)) => Exit::Refused,
            Self::Transfer(TransferError::Full(_)) => Exit::Unreachable,
            Self::Transfer(_) | Self::Process { .. } | Self::JobFailed { .. } => Exit::JobFailed,
            Self::JobCancelled { .. } => Exit::Stopped,
            Self::DoesNotFit(_) => Exit::WillNotFit,
            Self::TimedOut { .. } => Exit::TimedOut,
        }
        .into()
    }
}

fn fault_of(fault: &Diagnostic) -> Fault {
    let place = fault.place.as_ref().map(ToString::to_string);
    Fault {
        place,
        ..Fault::new(
            fault.code,
            fault.message.clone(),
            fault.help.clone().unwrap_or_default(),
        )
    }
}

/// What is wrong with a row, and where that stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    pub place: String,
    pub text: String,
}

fn some_of(name: &str, rows: usize, faulty: usize) -> String {
    format!(
        "{faulty} of {} of {name} cannot be trained on as written",
        count(rows as u64, "row")
    )
}

fn rows_at_fault(
    name: &str,
    rows: usize,
    faulty: usize,
    findings: usize,
    shown: &[RowFault],
) -> String {
    with_rows(some_of(name, rows, faulty), shown, findings - shown.len())
}

fn unrendered(name: &str, rows: usize, faulty: usize) -> String {
    format!(
        "{faulty} of the first {} of {name} cannot be rendered for this model",
        count(rows as u64, "row")
    )
}

fn too_long(name: &str, rows: usize, faulty: usize, limit: usize) -> String {
    let rows = count(rows as u64, "row");
    let have = if faulty == 1 { "has" } else { "have" };
    format!(
        "{faulty} of the first {rows} of {name} {have} more tokens than data.max_seq_len {limit}, and data.too_long is `error`"
    )
}

/// A sentence, the rows that it speaks of, and how many findings are not shown.
fn with_rows(head: String, shown: &[RowFault], more: usize) -> String {
    let lines = shown.iter().map(|row| {
        format!(
            "{}: {}",
            console::line(&row.place),
            console::line(&row.text)
        )
    });
    let more = (more > 0).then(|| format!("and {}", count(more as u64, "further finding")));
    let all: Vec<String> = std::iter::once(head).chain(lines).chain(more).collect();
    all.join("\n")
}

fn rescue(job: u64) -> String {
    format!("qlora-ctl artifacts get {job} gets the adapter of its last checkpoint")
}
