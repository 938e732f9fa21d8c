//! How many matrices of scores the reference form of attention holds at one time: plans for devices
//! without flash attention count on four.
//!
//! The test counts what the whole program allocates, so it is the only one of its binary.

#![allow(unsafe_code)] // An allocator that counts.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{AttentionSaved, AttentionShape, Span, backend};

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, which follows the bytes that are held.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `alloc` above got the pointer from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TOKENS: usize = 1024;
const HEADS: usize = 4;
const HEAD_DIM: usize = 16;

fn wave(seed: usize) -> Tensor {
    let values: Vec<f32> = (0..TOKENS * HEADS * HEAD_DIM)
        .map(|i| ((i + seed) * 37 % 101) as f32 / 50.0 - 1.0)
        .collect();
    Tensor::from_vec(values, (TOKENS, HEADS * HEAD_DIM), &Device::Cpu).expect("a tensor")
}

/// The most matrices of scores that one pass backward of `shape` held beside what was there before.
fn most_matrices(shape: &AttentionShape) -> f64 {
    let backend = backend::reference(&Device::Cpu, DType::F32);
    let sequences = backend
        .sequences(&Span::packed(&[TOKENS]))
        .expect("sequences");
    let [q, k, v, d_o] = [1, 2, 3, 4].map(wave);
    let (o, lse) = backend
        .attention_forward((&q, &k, &v), shape, &sequences)
        .expect("attention");
    let saved = AttentionSaved {
        q: &q,
        k: &k,
        v: &v,
        o: &o,
        lse: &lse,
    };
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    backend
        .attention_backward(&d_o, &saved, shape, &sequences)
        .expect("gradients");
    let matrix = 4 * HEADS * TOKENS * TOKENS;
    (MOST.load(Ordering::Relaxed) - before) as f64 / matrix as f64
}

#[test]
fn attention_holds_four_matrices_of_scores_with_a_cap_and_without() {
    for cap in [None, Some(50.0)] {
        let shape = AttentionShape {
            cap,
            ..AttentionShape::new(HEADS, HEADS, HEAD_DIM)
        };
        let most = most_matrices(&shape);
        // The mask is a quarter of one; queries, keys and the buffers of products are little.
        assert!((3.0..4.7).contains(&most), "{cap:?}: {most}");
    }
}
