//! Tensors that leave a GPU for others.

use std::sync::Arc;

use candle_core::Tensor;
use qlora_kernels::types::options::Options;
use qlora_kernels::{Backend, backend};
use qlora_testkit::skip;

use crate::fixture::{elements, gpu};

/// GPUs of this machine; the emulated one is as many as are wanted. None where there are fewer.
fn several(wanted: usize) -> Option<Vec<Arc<dyn Backend>>> {
    if std::env::var_os("QLORA_EMULATED_GPU").is_some() {
        return Some((0..wanted).map(|_| gpu()).collect());
    }
    let open = |i: usize| {
        // The first must open, as in every test here.
        if i == 0 {
            return Some(gpu());
        }
        let device = backend::open_cuda(i).ok()?;
        Some(backend::open(&device, &Options::default()).expect("a backend"))
    };
    (0..wanted).map(open).collect()
}

#[test]
fn sums_over_several_gpus_have_the_order_and_the_bits_of_one() {
    // Numbers of which each order of adding gives another sum, one of the vectors shorter than
    // there are GPUs.
    let value =
        |rank: usize, i: usize| ((i * 31 + rank * 17) as f32).sin() * 10f32.powi(rank as i32 * 3);
    for (size, n) in [(2, 1001), (3, 1), (4, 1003)] {
        let Some(gpus) = several(size) else {
            return skip(&format!("it takes {size} GPUs"));
        };
        let invitation = gpus[0].invite().expect("NCCL");
        let sums: Vec<Vec<f32>> = std::thread::scope(|scope| {
            let sum = |(rank, gpu): (usize, Arc<dyn Backend>)| {
                let mut group = gpu.join(&invitation, rank, size).expect("a group");
                let own = Tensor::from_iter((0..n).map(|i| value(rank, i)), gpu.device())
                    .expect("a vector");
                elements(&group.sum(&own).expect("a sum"))
            };
            let threads: Vec<_> = gpus
                .into_iter()
                .enumerate()
                .map(|gpu| scope.spawn(move || sum(gpu)))
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().expect("a sum"))
                .collect()
        });
        let v = value;
        let wanted: Vec<f32> = (0..n)
            .map(|i| match size {
                2 => v(0, i) + v(1, i),
                3 => (v(0, i) + v(1, i)) + v(2, i),
                _ => (v(0, i) + v(1, i)) + (v(2, i) + v(3, i)),
            })
            .collect();
        assert!(sums.iter().all(|sum| *sum == wanted), "{size} GPUs");
    }
}
