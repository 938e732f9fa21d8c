//! Whether the coordinator serves TLS, and what other parts need to know of it.

use std::path::Path;

use qlora_access::Wire;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::Cli;
use crate::error::StartError;
use crate::listen::Configs;
use crate::tls::{Folder, Serving, Sources};

/// What other parts need to know of TLS.
pub struct Secured {
    pub configs: Option<Configs>,
    /// How programs of this machine speak to it.
    pub wires: watch::Receiver<Wire>,
    pub asks_workers: bool,
}

impl Secured {
    /// Reads the files, and reads them again whenever the process is told to.
    pub fn start(sources: Option<Sources>) -> Result<Self, StartError> {
        let Some(sources) = sources else {
            let mut hangups = signal(SignalKind::hangup()).map_err(StartError::Serve)?;
            tokio::spawn(async move {
                // Unheard, it would end the process.
                while hangups.recv().await.is_some() {
                    tracing::info!("SIGHUP: there is no certificate to be read again");
                }
            });
            return Ok(Self {
                configs: None,
                wires: watch::channel(Wire::Plain).1,
                asks_workers: false,
            });
        };
        let serving = Serving::start(sources)?;
        let secured = Self {
            configs: Some(serving.configs()),
            wires: serving.wires(),
            asks_workers: serving.asks_workers(),
        };
        tokio::spawn(serving.keep_fresh().map_err(StartError::Serve)?);
        Ok(secured)
    }
}

/// The files of TLS. None where the coordinator is to serve without.
///
/// # Errors
/// Other machines would reach it without TLS, and nobody has said that they may.
pub fn sources(cli: &Cli, folder: &Path) -> Result<Option<Sources>, StartError> {
    if cli.insecure_no_tls {
        return Ok(None);
    }
    let sources = Sources::find(cli.given_tls(), &Folder::of(folder))?;
    if sources.is_none() && !cli.listen.ip().is_loopback() {
        return Err(StartError::Unencrypted {
            address: cli.listen,
            folder: folder.into(),
        });
    }
    Ok(sources)
}
