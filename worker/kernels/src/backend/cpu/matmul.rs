//! Small matrix products on slices, on one thread: the callers are already parallel over heads.

/// A matrix inside a slice: element (i, j) lies at `offset + i * row + j * col`.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    pub row: usize,
    pub col: usize,
}

impl Strides {
    pub(crate) fn rows(width: usize) -> Self {
        Self { row: width, col: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            row: self.col,
            col: self.row,
        }
    }

    /// Elements that a matrix of `m` x `n` spans.
    fn extent(self, m: usize, n: usize) -> usize {
        if m == 0 || n == 0 {
            0
        } else {
            (m - 1) * self.row + (n - 1) * self.col + 1
        }
    }
}

/// `dst` = `keep` * `dst` + `alpha` * `a` [m, k] * `b` [k, n].
///
/// # Panics
/// A slice is shorter than its matrix.
#[allow(clippy::too_many_arguments)]
pub(crate) fn matmul(
    (m, k, n): (usize, usize, usize),
    dst: &mut [f32],
    dst_strides: Strides,
    accumulate: bool,
    a: &[f32],
    a_strides: Strides,
    b: &[f32],
    b_strides: Strides,
    alpha: f32,
) {
    assert!(
        dst.len() >= dst_strides.extent(m, n),
        "the destination is shorter than {m} x {n}"
    );
    assert!(
        a.len() >= a_strides.extent(m, k),
        "the left matrix is shorter than {m} x {k}"
    );
    assert!(
        b.len() >= b_strides.extent(k, n),
        "the right matrix is shorter than {k} x {n}"
    );
    let stride = |s: Strides| (s.col as isize, s.row as isize);
    let ((dc, dr), (ac, ar), (bc, br)) =
        (stride(dst_strides), stride(a_strides), stride(b_strides));
    // SAFETY: the three assertions above keep every element that the product touches inside its
    // slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst.as_mut_ptr(),
            dc,
            dr,
            accumulate,
            a.as_ptr(),
            ac,
            ar,
            b.as_ptr(),
            bc,
            br,
            1.0,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
