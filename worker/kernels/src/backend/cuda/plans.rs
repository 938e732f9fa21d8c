//! What cuBLASLt needs to know of a product, and the algorithm that it advises, found once for each
//! shape.
//!
//! cuBLASLt counts in columns: to it, a row-major matrix [R, C] is a matrix of C rows and R
//! columns.

use std::collections::HashMap;

use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};
use parking_lot::Mutex;

use crate::Result;

/// Bytes that cuBLASLt may use: what NVIDIA advises for Hopper.
pub(super) const WORKSPACE: usize = 32 << 20;

/// Which product of two row-major matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// [M, K] and [N, K] to [M, N]: x w^T.
    Forward,
    /// [M, N] and [N, K] to [M, K]: dy w.
    Backward,
    /// [M, P] and [M, Q] to [P, Q]: a^T b.
    Outer,
}

impl Kind {
    /// Rows and columns of the result.
    pub fn shape(self, a: (usize, usize), b: (usize, usize)) -> Result<(usize, usize)> {
        let (rows, cols, sums) = match self {
            Self::Forward => (a.0, b.0, (a.1, b.1)),
            Self::Backward => (a.0, b.1, (a.1, b.0)),
            Self::Outer => (a.1, b.1, (a.0, b.0)),
        };
        if sums.0 != sums.1 {
            candle_core::bail!("{a:?} and {b:?} cannot be multiplied ({self:?})")
        }
        Ok((rows, cols))
    }

    /// Whether cuBLASLt transposes its left operand, which is our right one, and its right one.
    fn transposed(self) -> (bool, bool) {
        match self {
            Self::Forward => (true, false),
            Self::Backward => (false, false),
            Self::Outer => (false, true),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub kind: Kind,
    pub a: (usize, usize),
    pub b: (usize, usize),
    pub wide: bool,
    /// Bytes that all addresses are multiples of.
    pub alignment: u32,
}

/// A product that is ready to run.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    pub operation: sys::cublasLtMatmulDesc_t,
    pub left: sys::cublasLtMatrixLayout_t,
    pub right: sys::cublasLtMatrixLayout_t,
    pub out: sys::cublasLtMatrixLayout_t,
    pub algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    /// Gives its descriptions back. Work that was started with them does not need them any more.
    fn destroy(self) {
        // SAFETY: nothing holds the plan but the map that it was taken from.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.left, self.right, self.out] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

/// Plans that are kept: batches of many lengths ask for many.
const MOST_PLANS: usize = 4096;

/// Products that were asked for so far.
pub(super) struct Plans {
    pub handle: sys::cublasLtHandle_t,
    known: Mutex<HashMap<Key, Plan>>,
}

// SAFETY: cuBLASLt's handles may be used from every thread, and a plan is not changed after it was
// made.
unsafe impl Send for Plans {}
// SAFETY: as above.
unsafe impl Sync for Plans {}

pub(super) fn fault(e: result::CublasError) -> candle_core::Error {
    candle_core::Error::Msg(format!("cuBLASLt: {e}"))
}

impl Plans {
    pub fn new(handle: sys::cublasLtHandle_t) -> Self {
        Self {
            handle,
            known: Mutex::default(),
        }
    }

    /// For a result of the shape `out`.
    pub fn plan(&self, key: Key, out: (usize, usize)) -> Result<Plan> {
        let mut known = self.known.lock();
        if let Some(plan) = known.get(&key) {
            return Ok(*plan);
        }
        if known.len() == MOST_PLANS {
            known.drain().for_each(|(_, plan)| plan.destroy());
        }
        let plan = make(self.handle, key, out).map_err(fault)?;
        known.insert(key, plan);
        Ok(plan)
    }
}

fn make(
    handle: sys::cublasLtHandle_t,
    key: Key,
    out: (usize, usize),
) -> std::result::Result<Plan, result::CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Preference;
    use sys::{cublasLtMatmulDescAttributes_t as Description, cudaDataType as Type};
    let out_type = if key.wide {
        Type::CUDA_R_32F
    } else {
        Type::CUDA_R_16BF
    };
    let layout = |(rows, cols): (usize, usize), of| {
        result::create_matrix_layout(of, cols as u64, rows as u64, cols as i64)
    };
    let operation = result::create_matmul_desc(
        sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        Type::CUDA_R_32F,
    )?;
    let (left_turned, right_turned) = key.kind.transposed();
    for (which, turned) in [
        (Description::CUBLASLT_MATMUL_DESC_TRANSA, left_turned),
        (Description::CUBLASLT_MATMUL_DESC_TRANSB, right_turned),
    ] {
        let value = i32::from(turned);
        // SAFETY: the attribute is an integer of 32 bits, 1 for a transposed operand.
        unsafe {
            result::set_matmul_desc_attribute(
                operation,
                which,
                (&raw const value).cast(),
                size_of_val(&value),
            )?
        };
    }
    let (left, right) = (
        layout(key.b, Type::CUDA_R_16BF)?,
        layout(key.a, Type::CUDA_R_16BF)?,
    );
    let out = layout(out, out_type)?;
    let preference = result::create_matmul_pref()?;
    let alignments = [
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
    ];
    let workspace = WORKSPACE;
    // Parts of a sum are added in `f32`: added in the result's bf16, small terms of it are lost.
    let reduction = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    // SAFETY: the size of the workspace has 64 bits, an alignment and a set of schemes 32;
    // everything was made just now.
    unsafe {
        let schemes = Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK;
        result::set_matmul_pref_attribute(
            preference,
            schemes,
            (&raw const reduction).cast(),
            size_of_val(&reduction),
        )?;
        let most = Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        result::set_matmul_pref_attribute(
            preference,
            most,
            (&raw const workspace).cast(),
            size_of_val(&workspace),
        )?;
        for which in alignments {
            let value = &raw const key.alignment;
            result::set_matmul_pref_attribute(
                preference,
                which,
                value.cast(),
                size_of_val(&key.alignment),
            )?;
        }
        let advice =
            result::get_matmul_algo_heuristic(handle, operation, left, right, out, out, preference);
        result::destroy_matmul_pref(preference)?;
        Ok(Plan {
            operation,
            left,
            right,
            out,
            algorithm: advice?.algo,
        })
    }
}
