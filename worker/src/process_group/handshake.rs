//! Both ends of a connection prove that they know the secret of their attempt, without sending it.
//!
//! Each sends a fresh number, and answers the other's with an HMAC (RFC 2104) over both numbers,
//! its own part and the rank, so that nothing from another connection can be replayed.

use std::io::{Error, ErrorKind, Read, Result, Write};

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// What a connection begins with; another version of the protocol has another one, whatever the
/// words of today are.
const GREETING: &[u8; 16] = b"process group v1";

pub type Secret = [u8; 32];
type Nonce = [u8; 32];

/// Bytes that nobody can guess.
pub fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    for half in bytes.chunks_mut(16) {
        half.copy_from_slice(uuid::Uuid::new_v4().as_bytes());
    }
    bytes
}

fn proof(
    secret: &Secret,
    part: &str,
    rank: u32,
    asked: &Nonce,
    own: &Nonce,
) -> Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(Error::other)?;
    for words in [part.as_bytes(), &rank.to_le_bytes(), asked, own] {
        mac.update(words);
    }
    Ok(mac)
}

fn stranger() -> Error {
    Error::new(
        ErrorKind::PermissionDenied,
        "the other end does not know the secret of this attempt",
    )
}

/// The first one's part; the rank of the other, which is one of `1..world_size`.
pub fn welcome(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    world_size: usize,
) -> Result<usize> {
    let (mut greeting, mut rank, mut theirs) = ([0; 16], [0; 4], [0; 32]);
    stream.read_exact(&mut greeting)?;
    if greeting != *GREETING {
        return Err(Error::new(
            ErrorKind::InvalidData,
            "the other end is no worker of this version",
        ));
    }
    stream.read_exact(&mut rank)?;
    stream.read_exact(&mut theirs)?;
    let (rank, own) = (u32::from_le_bytes(rank), random());
    stream.write_all(&own)?;
    let mut answer = [0; 32];
    stream.read_exact(&mut answer)?;
    proof(secret, "other", rank, &own, &theirs)?
        .verify_slice(&answer)
        .map_err(|_| stranger())?;
    stream.write_all(
        &proof(secret, "first", rank, &theirs, &own)?
            .finalize()
            .into_bytes(),
    )?;
    match rank as usize {
        rank if (1..world_size).contains(&rank) => Ok(rank),
        rank => Err(Error::new(
            ErrorKind::InvalidData,
            format!("rank {rank} in a process group of {world_size}"),
        )),
    }
}

/// The part of the one of `rank`.
pub fn introduce(stream: &mut (impl Read + Write), secret: &Secret, rank: usize) -> Result<()> {
    let (rank, own) = (rank as u32, random());
    let hello: Vec<u8> = [&GREETING[..], &rank.to_le_bytes(), &own].concat();
    stream.write_all(&hello)?;
    let (mut theirs, mut answer) = ([0; 32], [0; 32]);
    stream.read_exact(&mut theirs)?;
    stream.write_all(
        &proof(secret, "other", rank, &theirs, &own)?
            .finalize()
            .into_bytes(),
    )?;
    stream.read_exact(&mut answer)?;
    proof(secret, "first", rank, &own, &theirs)?
        .verify_slice(&answer)
        .map_err(|_| stranger())
}
