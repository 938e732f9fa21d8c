//! Rows of query and key projections, whose order differs between a folder and a file where
//! llama.cpp rotates neighboring elements.

use candle_core::Tensor;

use crate::Result;
use crate::weights::gguf::rotary_row;

/// Whose order of rows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    HuggingFace,
    Gguf,
}

/// `matrix` [rows, ...] with its rows brought into `order` from the other one.
pub(super) fn reordered(matrix: &Tensor, heads: Option<usize>, order: Order) -> Result<Tensor> {
    let Some(heads) = heads else {
        return Ok(matrix.clone());
    };
    let rows = matrix.dim(0)?;
    let mut places = vec![0u32; rows];
    for row in 0..rows {
        let place = rotary_row(row, rows, heads);
        match order {
            Order::HuggingFace => places[row] = place as u32,
            Order::Gguf => places[place] = row as u32,
        }
    }
    Ok(matrix.index_select(&Tensor::new(places, matrix.device())?, 0)?)
}
