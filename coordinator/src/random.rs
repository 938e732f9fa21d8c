//! Texts that nobody can guess.

/// Random bytes of a text.
const BYTES: usize = 32;

/// A text of 256 random bits.
///
/// # Errors
/// The system gives no random bytes.
pub fn text() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}
