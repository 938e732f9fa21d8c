//! Texts and seeds that nobody can guess.

/// Random bytes of a text or a seed.
const BYTES: usize = 32;

/// A text of 256 random bits.
///
/// # Errors
/// The system gives no random bytes.
pub fn text() -> Result<String, getrandom::Error> {
    Ok(hex::encode(seed()?))
}

/// 256 random bits.
///
/// # Errors
/// The system gives no random bytes.
pub fn seed() -> Result<[u8; BYTES], getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
