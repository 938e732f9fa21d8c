//! Configurations of tests.

use qlora_config::{Layers, ResolvedConfig};

/// The configuration of the defaults with `common`, which a test's runs share, and `set` over them:
/// `key=value` each, as for `--set`.
///
/// # Panics
/// It is not valid.
pub fn resolved(common: &[&str], set: &[impl AsRef<str>]) -> ResolvedConfig {
    let common = common.iter().map(|pair| (*pair).to_owned());
    let own = set.iter().map(|pair| pair.as_ref().to_owned());
    let layers = Layers {
        set: common.chain(own).collect(),
        ..Layers::default()
    };
    layers.resolve().expect("a valid configuration")
}
