//! One product of a sum.

use crate::types::matrix::PanelSource;
use crate::types::rows::Rows;

/// Activations times a frozen matrix.
pub(crate) struct Term<'a> {
    pub x: &'a Rows,
    pub w: &'a dyn PanelSource,
}
