//! One connection: messages that say how long they are.

use std::io::{Read, Write};
use std::net::TcpStream;

use qlora_trainer::{Error, Result};

/// The longest message: gradients of a large adapter are some hundred megabytes.
const LONGEST: u64 = 64 << 30;
/// Bytes that are made room for before any of them have come.
const AT_ONCE: u64 = 1 << 20;

/// A connection to a process that is known.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Who is at the other end, for messages.
    whom: String,
}

impl Link {
    pub fn new(stream: TcpStream, whom: String) -> Self {
        Self { stream, whom }
    }

    pub fn send(&mut self, words: &[u8]) -> Result<()> {
        let length = (words.len() as u64).to_le_bytes();
        let sent = self.stream.write_all(&length).and_then(|()| self.stream.write_all(words));
        sent.map_err(|e| self.gone(e))
    }

    pub fn receive(&mut self) -> Result<Vec<u8>> {
        let mut length = [0; 8];
        self.stream.read_exact(&mut length).map_err(|e| self.gone(e))?;
        let length = u64::from_le_bytes(length);
        if length > LONGEST {
            return Err(self.gone(std::io::Error::other(format!("a message of {length} bytes"))));
        }
        let mut words = Vec::with_capacity(length.min(AT_ONCE) as usize);
        let got = (&mut self.stream).take(length).read_to_end(&mut words).map_err(|e| self.gone(e))?;
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

/// Numbers as they travel.
pub fn words(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// The `n` numbers that travelled as `words`.
pub fn numbers(words: &[u8], n: usize) -> Result<Vec<f32>> {
    if words.len() != 4 * n {
        return Err(Error::Peer { fault: format!("{} bytes came where {n} numbers were awaited", words.len()) });
    }
    Ok(words.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}
