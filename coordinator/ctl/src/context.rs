//! What a command works with: the connection, and how to talk to the person.

use indicatif::{ProgressBar, ProgressStyle};
use qlora_client::retry::{Verdict, judge};
use qlora_client::{Client, TransferError, console};
use qlora_config::Warning;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::arguments::Global;
use crate::error::CtlError;
use crate::output::json;
use crate::reach;
use crate::status::is_foreign;

/// Shared by all commands.
pub struct Context {
    pub global: Global,
    /// Made when it is first asked for.
    client: OnceCell<Client>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        Self {
            global,
            client: OnceCell::new(),
        }
    }

    /// A client; nothing is asked yet. The first call waits a little for a coordinator of this
    /// machine that has just been started.
    pub async fn client(&self) -> Result<Client, CtlError> {
        let Global {
            coordinator,
            token_file,
            ..
        } = &self.global;
        let make = || async {
            let client = Client::with_tls(coordinator, token_file.as_deref(), &self.global.tls())?;
            reach::await_listener(coordinator, || client.has_token()).await;
            Ok(client)
        };
        self.client.get_or_try_init(make).await.cloned()
    }

    /// The address of the coordinator that the command talks to, where it talks to one.
    pub fn called(&self) -> Option<&str> {
        self.client.get().map(Client::current_address)
    }

    /// Turns the status of a failed call into an error with its way out.
    pub fn fault(&self) -> impl Fn(tonic::Status) -> CtlError + use<> {
        let address = self.global.coordinator.clone();
        let client = self.client.get().cloned();
        move |status| {
            let Some(client) = &client else {
                return CtlError::from_status(&status, &address);
            };
            match (status.code(), client.link_fault()) {
                (tonic::Code::Unauthenticated, _) if !is_foreign(&status) => CtlError::Token {
                    // What comes behind the fault is advice for every caller; this one's own stands
                    // under it.
                    message: first(status.message()).to_owned(),
                    help: client.token_help(status.message()),
                },
                (_, Some(fault)) if judge(&status) == Verdict::Again => CtlError::Link {
                    address: address.clone(),
                    fault,
                },
                _ => CtlError::from_status(&status, &address),
            }
        }
    }

    /// The same of a transfer.
    pub fn transfer_fault(&self) -> impl Fn(TransferError) -> CtlError + use<> {
        let of_call = self.fault();
        move |fault| match fault {
            TransferError::Stuck(status) => of_call(*status),
            other => other.into(),
        }
    }

    /// Whether progress may be drawn: on a terminal, and unless `--quiet` or `--json` was given.
    pub fn draws(&self) -> bool {
        use std::io::IsTerminal;
        !self.global.quiet && !self.global.json && std::io::stderr().is_terminal()
    }

    /// The bar of a transfer of `size` bytes, which is drawn where [`Self::draws`].
    pub fn bar(&self, name: &str, size: u64) -> ProgressBar {
        let bar = if self.draws() {
            ProgressBar::new(size)
        } else {
            ProgressBar::hidden()
        };
        if let Ok(style) =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {eta}")
        {
            bar.set_style(style);
        }
        bar.set_message(console::line(name).into_owned());
        bar
    }

    /// Tells of keys that have no effect, on stderr; `--quiet` does not silence what may make a run
    /// another one.
    pub fn warn(&self, warnings: &[Warning]) {
        if self.global.json && !warnings.is_empty() {
            console::note(&console::json(
                &json!({"v": 1, "warnings": json::warnings(warnings)}).to_string(),
            ));
        } else if !self.global.json {
            warnings
                .iter()
                .for_each(|warning| console::note(&console::block(&warning.to_string())));
        }
    }

    /// Tells the person something on the way, on stderr, in one line: whatever of `text` is from
    /// outside can begin no other.
    pub fn say(&self, text: impl std::fmt::Display) {
        if !self.global.quiet && !self.global.json {
            console::note(&console::line(&text.to_string()));
        }
    }
}

/// What a message says before it says what to do.
fn first(message: &str) -> &str {
    message.split("; ").next().unwrap_or(message)
}
