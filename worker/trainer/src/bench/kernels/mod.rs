//! Every operation of a training step, each alone, at the sizes of a micro-batch: where a step's
//! time goes.
//!
//! A row times what the step calls, through the same functions. DoRA's own operations are not among
//! them.

mod attention;
mod calls;
mod case;
mod ceilings;
mod elements;
mod inputs;
mod loss;
mod norms;
mod projections;
mod setting;
mod table;
mod update;

use self::setting::Setting;
use self::table::Table;
use crate::Result;

pub use self::case::Case;
pub use self::table::Timing;

/// Times every operation, in the order of the step; two rates that the device reaches come first.
pub fn time(case: Case<'_>) -> Result<Vec<Timing>> {
    let setting = Setting::new(case)?;
    let mut table = Table::new(case.device);
    ceilings::time(&mut table, &setting)?;
    projections::time(&mut table, &setting)?;
    attention::time(&mut table, &setting)?;
    norms::time(&mut table, &setting)?;
    elements::time(&mut table, &setting)?;
    loss::time(&mut table, &setting)?;
    update::time(&mut table, &setting)?;
    Ok(table.rows())
}
