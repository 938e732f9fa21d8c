//! Options of a worker that serves.

use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use qlora_client::{Client, ConnectError, TlsFiles};
use qlora_proto::numbers::whole;

use crate::models::Rule;

const CONNECTION: &str = "Connection";
const SERVING: &str = "Serving";
const SEVERAL: &str = "Training on several workers";

/// Where the coordinator of this machine listens.
const USUAL_COORDINATOR: &str = "127.0.0.1:7070";

/// The longest patience, in seconds.
const YEAR: u64 = 365 * 24 * 3600;

#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Address of the coordinator, such as 127.0.0.1:7070; with commas those of several that share a
    /// database.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_URL", default_value = USUAL_COORDINATOR, value_name = "ADDR")]
    pub coordinator: String,

    /// File whose first line is the coordinator's token; QLORA_TOKEN may hold the token itself. Not
    /// needed where the same user runs the coordinator on this machine.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,

    /// File with the certificates, in PEM, by which an https:// coordinator is known: its ca.pem. Not
    /// needed where the same user runs it on this machine [default: those of the system]
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,

    /// File with a certificate, in PEM, to show to a coordinator that asks workers for one.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// File with its key, in PEM.
    #[arg(help_heading = CONNECTION, long, global = true, env = "QLORA_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,

    /// Name under which this machine appears [default: the host's name]
    #[arg(help_heading = SERVING, long, env = "QLORA_WORKER_NAME", value_parser = NonEmptyStringValueParser::new())]
    pub name: Option<String>,

    /// Folder for downloads and checkpoints [default: ~/.local/share/qlora/worker]
    #[arg(help_heading = SERVING, long, env = "QLORA_STATE_DIR")]
    pub state_dir: Option<PathBuf>,

    /// Device to offer; the best there is by default.
    #[arg(help_heading = SERVING, long, value_parser = ["cpu", "cuda", "metal"])]
    pub device: Option<String>,

    /// key=value that jobs may ask for; repeatable.
    #[arg(help_heading = SERVING, long, value_name = "KEY=VALUE", value_parser = label)]
    pub label: Vec<(String, String)>,

    /// Models that jobs may name beside those of the catalogue: folders of this machine, OWNER/NAME
    /// or OWNER/* of the hub; repeatable, or with commas [default: any where the coordinator
    /// listens on this machine's loopback only, else none]
    #[arg(help_heading = SERVING, long, env = "QLORA_ALLOW_MODELS", value_name = "WHAT", value_delimiter = ',')]
    pub allow_models: Vec<Rule>,

    /// Take one job, then exit.
    #[arg(help_heading = SERVING, long)]
    pub once: bool,

    /// Seconds without a word from a training process after which it is taken for hung and
    /// replaced; 0 waits forever [default: 1800 on a GPU, 0 on a CPU, which may be slow and
    /// does not hang]
    #[arg(help_heading = SERVING, long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = whole::<u64>("a number of seconds", 0..=YEAR))]
    pub patience: Option<u64>,

    /// Host under which the workers of a job that trains on several reach this one [default: this
    /// machine's addresses]
    #[arg(help_heading = SEVERAL, long, env = "QLORA_PEER_ADDRESS", value_name = "HOST")]
    pub peer_address: Option<String>,

    /// Port on which they reach it, the next ones for further GPUs; 0 is any free one.
    #[arg(help_heading = SEVERAL, long, env = "QLORA_PEER_PORT", default_value_t = 0, value_name = "PORT", allow_negative_numbers = true, value_parser = whole::<u16>("a port", 0..=65_535))]
    pub peer_port: u16,
}

impl AgentArgs {
    /// A client of the coordinator; nothing is asked yet.
    ///
    /// # Errors
    /// The address, the token or a file for TLS cannot be used.
    pub fn client(&self) -> Result<Client, ConnectError> {
        let tls = TlsFiles {
            ca: self.ca.clone(),
            certificate: self.cert.clone(),
            key: self.key.clone(),
        };
        Client::with_tls(&self.coordinator, self.token_file.as_deref(), &tls)
    }

    /// Whether a person has said where the coordinator is.
    pub fn names_coordinator(&self) -> bool {
        self.coordinator != USUAL_COORDINATOR
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value")?;
    if key.is_empty() {
        Err("the key is empty".into())
    } else {
        Ok((key.into(), value.into()))
    }
}
