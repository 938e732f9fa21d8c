//! The certificates that are served, which may be replaced while the coordinator runs.

use std::sync::Arc;

use qlora_access::Wire;
use rustls::ServerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::error::TlsError;
use super::sources::Sources;

/// TLS as it is served now.
#[derive(Debug)]
pub struct Serving {
    sources: Sources,
    configs: watch::Sender<Arc<ServerConfig>>,
    wires: watch::Sender<Wire>,
}

impl Serving {
    /// Reads the files, and warns of what ends soon.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn start(sources: Sources) -> Result<Self, TlsError> {
        let loaded = sources.load()?;
        warn(&loaded.warnings);
        Ok(Self {
            sources,
            configs: watch::channel(loaded.config).0,
            wires: watch::channel(Wire::Tls { ca: loaded.ca }).0,
        })
    }

    /// What each connection begins with.
    pub fn configs(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.configs.subscribe()
    }

    /// How programs of this machine speak to the coordinator.
    pub fn wires(&self) -> watch::Receiver<Wire> {
        self.wires.subscribe()
    }

    /// Whether workers have to show a certificate.
    pub fn asks_workers(&self) -> bool {
        self.sources.asks_workers()
    }

    /// Reads the files again at every SIGHUP. Connections that are open stay as they are.
    ///
    /// # Errors
    /// The signal cannot be listened to.
    pub fn keep_fresh(self) -> std::io::Result<impl Future<Output = ()>> {
        let hangups = signal(SignalKind::hangup())?;
        Ok(self.reload_at(hangups))
    }

    async fn reload_at(self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            match self.sources.load() {
                Ok(loaded) => {
                    warn(&loaded.warnings);
                    self.configs.send_replace(loaded.config);
                    let wire = Wire::Tls { ca: loaded.ca };
                    self.wires.send_if_modified(|before| {
                        let is_other = *before != wire;
                        *before = wire;
                        is_other
                    });
                    tracing::info!("the certificate was read again");
                }
                Err(fault) => {
                    tracing::error!("{fault}; the one before is served on; {}", fault.help());
                }
            }
        }
    }
}

fn warn(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}
