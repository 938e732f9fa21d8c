//! One connection: messages that say how long they are.

use std::io::{Read, Write};
use std::sync::Arc;

use qlora_trainer::stop::StopSignal;
use qlora_trainer::{Error, Result};

use super::channel::Channel;

/// The longest message: gradients of a large adapter are some hundred megabytes.
const LONGEST: u64 = 64 << 30;
/// Bytes that are made room for before any of them have come.
const AT_ONCE: u64 = 1 << 20;
/// Stands in the place of a length: whoever sends it breaks its share of the work off, and a
/// message follows later.
const INTERRUPT: u64 = u64::MAX;

/// A connection to a process that is known.
#[derive(Debug)]
pub struct Link {
    channel: Arc<Channel>,
    /// Who is at the other end, for messages.
    whom: String,
}

impl Link {
    pub fn new(channel: Channel, whom: String) -> Self {
        Self {
            channel: Arc::new(channel),
            whom,
        }
    }

    pub fn send(&mut self, words: &[u8]) -> Result<()> {
        let length = (words.len() as u64).to_le_bytes();
        let mut channel = &*self.channel;
        let sent = channel
            .write_all(&length)
            .and_then(|()| channel.write_all(words));
        sent.map_err(|e| self.gone(e))
    }

    /// Tells the other end that this one breaks its share of the work off.
    pub fn interrupt(&mut self) -> Result<()> {
        (&*self.channel)
            .write_all(&INTERRUPT.to_le_bytes())
            .map_err(|e| self.gone(e))
    }

    /// Given where the other end has sent [`Self::interrupt`] and nothing before it that has not
    /// been received.
    pub fn stop_signal(&self) -> StopSignal {
        let channel = self.channel.clone();
        StopSignal::new(move || channel.is_next(&INTERRUPT.to_le_bytes()))
    }

    /// The next message; interrupts before it have been acted on, or come too late to be.
    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut length = INTERRUPT;
        while length == INTERRUPT {
            let mut bytes = [0; 8];
            (&*self.channel)
                .read_exact(&mut bytes)
                .map_err(|e| self.gone(e))?;
            length = u64::from_le_bytes(bytes);
        }
        if length > LONGEST {
            return Err(self.gone(std::io::Error::other(format!(
                "a message of {length} bytes"
            ))));
        }
        let mut words = Vec::with_capacity(length.min(AT_ONCE) as usize);
        let got = (&*self.channel)
            .take(length)
            .read_to_end(&mut words)
            .map_err(|e| self.gone(e))?;
        if (got as u64) < length {
            return Err(self.gone(std::io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(words)
    }

    fn gone(&self, e: std::io::Error) -> Error {
        let whom = &self.whom;
        Error::Peer {
            fault: match e.kind() {
                std::io::ErrorKind::UnexpectedEof => format!("{whom} has closed its connection"),
                _ => format!("the connection to {whom} broke ({e})"),
            },
        }
    }
}

/// Elements as they travel.
pub fn words(elements: &[f32]) -> Vec<u8> {
    elements.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The `n` elements that traveled as `words`.
pub fn elements(words: &[u8], n: usize) -> Result<Vec<f32>> {
    if words.len() != 4 * n {
        return Err(Error::Peer {
            fault: format!("expected {n} elements, got {} bytes", words.len()),
        });
    }
    Ok(words
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect())
}
