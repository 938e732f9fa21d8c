//! The coordinator's machine: its program, on a disk that outlasts it.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use qlora_access::Token;
use qlora_coordinator::simulated::{Coordinator, Machine};
use qlora_testkit::Chance;
use turmoil::net::TcpListener;

use crate::clocks;
use crate::disk::Disk;
use crate::lines::Line;
use crate::witness::Witness;

/// What everybody calls it.
pub const NAME: &str = "coordinator";
pub const PORT: u16 = 7070;

/// What lasts longer than the program.
pub struct Host {
    pub disk: Arc<Disk>,
    pub folder: PathBuf,
    pub token: Token,
    pub lease: Duration,
    pub seed: u64,
    pub witness: Witness,
    /// How often the program was started.
    pub starts: AtomicU64,
}

impl Host {
    /// Runs the program until its machine dies.
    ///
    /// # Errors
    /// It does not start.
    pub async fn run(self: Arc<Self>) -> turmoil::Result {
        clocks::start_program();
        self.witness.note(NAME, "starts");
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let machine = Machine {
            address,
            name: NAME,
            token: self.token.clone(),
            folder: &self.folder,
            lease: self.lease,
            seed: self.bits(),
        };
        let coordinator = Coordinator::start(self.disk.clone(), machine).await?;
        let listener = TcpListener::bind(address).await?;
        let own = turmoil::lookup(NAME);
        loop {
            let (stream, peer) = listener.accept().await?;
            let (stream, coordinator) = (Line::new(stream)?, coordinator.clone());
            let local = SocketAddr::from((own, PORT));
            tokio::spawn(async move {
                coordinator.converse(Box::new(stream), local, peer).await;
            });
        }
    }

    /// What was not synced of uploads gets lost: of the bytes of each the second half is cut off, or
    /// reads as zeros. Whether there was any.
    pub fn tear_uploads(&self) -> bool {
        let mut chance = Chance::new(self.seed ^ self.starts.load(Relaxed));
        let parts = std::fs::read_dir(self.folder.join("partial"));
        let parts = parts.into_iter().flatten().flatten();
        let mut parts: Vec<_> = parts.map(|part| part.path()).collect();
        // A folder lists its files in no order.
        parts.sort();
        let mut torn = false;
        for part in parts {
            let file = OpenOptions::new().write(true).open(part);
            let cut = file.and_then(|file| {
                let bytes = file.metadata()?.len();
                file.set_len(bytes / 2)?;
                if chance.below(2) == 0 {
                    file.set_len(bytes)?;
                }
                Ok(bytes > 0)
            });
            torn |= cut.unwrap_or(false);
        }
        torn
    }

    /// Random bits of this start.
    fn bits(&self) -> [u8; 32] {
        let start = self.starts.fetch_add(1, Relaxed);
        let mut bits = [0; 32];
        bits[..8].copy_from_slice(&self.seed.to_le_bytes());
        bits[8..16].copy_from_slice(&start.to_le_bytes());
        bits
    }
}
