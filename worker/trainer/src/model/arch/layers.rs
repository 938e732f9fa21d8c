//! Which blocks have a window.

use super::keys::Keys;

/// Words of `layer_types`.
pub(super) const FULL: &str = "full_attention";
pub(super) const SLIDING: &str = "sliding_attention";

/// Whether each of `count` blocks has a window: as `layer_types` says, else as `pattern` does.
pub(super) fn windowed(
    config: &Keys<'_>,
    count: usize,
    pattern: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, String> {
    let Some(words) = config.texts("layer_types")? else {
        return Ok((0..count).map(pattern).collect());
    };
    if words.len() != count {
        let given = words.len();
        return Err(format!(
            "`layer_types` is of {given} blocks, the model has {count}"
        ));
    }
    let is_windowed = |word: &&str| match *word {
        SLIDING => Ok(true),
        FULL => Ok(false),
        other => Err(format!(
            "`layer_types` has `{other}`, which is not implemented"
        )),
    };
    words.iter().map(is_windowed).collect()
}
