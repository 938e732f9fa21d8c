//! Which blocks have a window.

use super::fault::ConfigFault;
use super::keys::Keys;

/// Words of `layer_types`.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// Whether each of `count` blocks has a window: as `layer_types` says, else as `pattern` does.
pub(super) fn windowed(
    config: &Keys<'_>,
    count: usize,
    pattern: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ConfigFault> {
    let Some(words) = config.texts("layer_types")? else {
        return Ok((0..count).map(pattern).collect());
    };
    if words.len() != count {
        let given = words.len();
        let fault = format!("`layer_types` is of {given} blocks, the model has {count}");
        return Err(fault.into());
    }
    let is_windowed = |word: &&str| match *word {
        SLIDING => Ok(true),
        FULL => Ok(false),
        other => Err(ConfigFault::Unsupported(format!(
            "`layer_types` has `{other}`, which is not implemented"
        ))),
    };
    words.iter().map(is_windowed).collect()
}

/// The window of those that are `windowed`, which is `default` where no key names it.
///
/// # Errors
/// It is `null`, and a block has one.
pub(super) fn window(
    config: &Keys<'_>,
    windowed: &[bool],
    default: usize,
) -> Result<usize, String> {
    const KEY: &str = "sliding_window";
    match config.size(KEY)? {
        Some(window) => Ok(window),
        None if config.has(KEY) && windowed.contains(&true) => Err(format!(
            "`{KEY}` is null, and `layer_types` has blocks of `{SLIDING}`"
        )),
        None => Ok(default),
    }
}
