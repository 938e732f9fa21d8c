//! What every architecture says about itself. The module above lists the architectures; `keys`,
//! `sizes`, `layers` and `rope` read keys.

use qlora_planner::ModelShape;

use super::fault::ConfigFault;
use super::gguf::GgufForm;
use super::keys::Keys;

/// What sets an architecture apart.
pub(super) struct Architecture {
    /// `model_type` of `config.json`.
    pub model_type: &'static str,
    /// The class in `architectures`; a classifier has another head, and another class.
    pub class: &'static str,
    /// Keys that it carries out beside those of [`super::known`].
    pub keys: &'static [&'static str],
    /// The model's sizes and constants.
    pub shape: fn(&Keys<'_>) -> Result<ModelShape, ConfigFault>,
    /// The same in GGUF files.
    pub gguf: GgufForm,
}
