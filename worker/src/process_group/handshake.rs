//! What a connection begins with, once both ends know that they belong to one attempt: who
//! connected says its rank, and is told that it is let in.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// Another version of the protocol has another one, whatever the words of today are.
const GREETING: &[u8; 16] = b"process group v2";

/// The first one's part; the rank of the other, which is one of `1..world_size`.
pub fn welcome(stream: &mut (impl Read + Write), world_size: usize) -> Result<usize> {
    let (mut greeting, mut rank) = ([0; GREETING.len()], [0; 4]);
    stream.read_exact(&mut greeting)?;
    if greeting != *GREETING {
        return Err(of_another_version());
    }
    stream.read_exact(&mut rank)?;
    let rank = u32::from_le_bytes(rank) as usize;
    if !(1..world_size).contains(&rank) {
        let fault = format!("rank {rank} in a process group of {world_size}");
        return Err(Error::new(ErrorKind::InvalidData, fault));
    }
    stream.write_all(GREETING)?;
    Ok(rank)
}

/// The part of the one of `rank`.
pub fn introduce(stream: &mut (impl Read + Write), rank: usize) -> Result<()> {
    let hello: Vec<u8> = [&GREETING[..], &(rank as u32).to_le_bytes()].concat();
    stream.write_all(&hello)?;
    let mut greeting = [0; GREETING.len()];
    stream.read_exact(&mut greeting)?;
    match greeting == *GREETING {
        true => Ok(()),
        false => Err(of_another_version()),
    }
}

fn of_another_version() -> Error {
    let fault = "the other end is no worker of this version";
    Error::new(ErrorKind::InvalidData, fault)
}
