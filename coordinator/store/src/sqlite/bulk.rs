//! Many rows by one statement: each statement goes to the thread of its connection and back, and
//! that takes longer than most rows.

use std::iter;

use sqlx::AssertSqlSafe;

/// Rows of one statement at the most.
const ROWS: usize = 64;

/// Cuts `rows` so that as many of them as are alike go by one statement. The lengths are powers of
/// two: few different statements have to be prepared, and the connection keeps them.
pub(super) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    iter::from_fn(move || {
        let length = rows.len().min(ROWS).checked_ilog2()?;
        let (piece, rest) = rows.split_at(1 << length);
        rows = rest;
        Some(piece)
    })
}

/// The statement of `before`, `rows` rows of `columns` values each, and `after`.
pub(super) fn statement(
    (before, after): (&'static str, &'static str),
    columns: usize,
    rows: usize,
) -> AssertSqlSafe<String> {
    let row = format!("({})", vec!["?"; columns].join(", "));
    let rows = vec![row; rows].join(", ");
    AssertSqlSafe(format!("{before} {rows} {after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_piece_in_the_order_of_all() {
        for many in [0, 1, 2, 3, 63, 64, 65, 300] {
            let rows = Vec::from_iter(0..many);
            let pieces = Vec::from_iter(pieces(&rows));
            assert_eq!(pieces.concat(), rows);
            let is_right = |piece: &&[i32]| piece.len() <= ROWS && piece.len().is_power_of_two();
            assert!(pieces.iter().all(is_right), "{many}");
        }
    }
}
