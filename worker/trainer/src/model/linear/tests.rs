use candle_core::{DType, Device, Tensor, Var};
use qlora_kernels::DropoutKey;
use qlora_testkit::tensors::{largest_difference, spread};

use super::*;
use crate::Result;
use crate::lora::{AdapterPass, Factors, Magnitude};
use crate::weights::Plain;

const SCALE: f64 = 1.5;

fn values(rows: usize, cols: usize, seed: usize) -> Tensor {
    Tensor::from_vec(spread(rows * cols, seed, 1009), (rows, cols), &Device::Cpu).expect("values")
}

/// The formulas of `dora` as a graph of candle's, whose norm is a
/// constant.
#[test]
fn gradients_of_dora_with_dropout_are_those_of_a_recorded_graph() -> Result<()> {
    of_dora(1.0, None)?;
    of_dora(0.22, Some(values(1, 8, 9).squeeze(0)?))
}

fn of_dora(k: f64, bias: Option<Tensor>) -> Result<()> {
    let (tokens, inputs, outputs, rank) = (6, 10, 8, 3);
    let (x, w, dy) = (
        values(tokens, inputs, 1),
        values(outputs, inputs, 2),
        values(tokens, outputs, 3),
    );
    let (a, b) = (values(rank, inputs, 4), values(outputs, rank, 5));
    let m = values(1, outputs, 6).squeeze(0)?.abs()?;
    let key = DropoutKey {
        seed: 3,
        step: 1,
        projection: 2,
        first_token: 0,
        probability: 0.3,
    };

    let [vx, va, vb, vm] = [&x, &a, &b, &m].map(|t| Var::from_tensor(t).expect("a variable"));
    let backend = &*qlora_kernels::backend::reference(&Device::Cpu, DType::F32);
    let mask = backend
        .dropout(&x.ones_like()?.into(), &key)?
        .tensor()?
        .clone();
    let dropped = (vx.as_tensor() * &mask)?;
    let unscaled =
        (dropped.matmul(&w.t()?)? + (dropped.matmul(&va.t()?)?.matmul(&vb.t()?)? * SCALE)?)?;
    let norms = (&w + (b.matmul(&a)? * SCALE)?)?.sqr()?.sum(1)?.sqrt()?;
    let scaled = unscaled.broadcast_mul(&(vm.as_tensor() / norms)?)?;
    let mut wanted = ((vx.as_tensor() - &dropped)?.matmul(&w.t()?)? + scaled)?;
    if let Some(bias) = &bias {
        wanted = wanted.broadcast_add(bias)?;
    }
    let wanted = (wanted * k)?;
    let grads = (&wanted * &dy)?.sum_all()?.backward()?;

    let linear = Linear::new(Box::new(Plain(w)), bias, k)?;
    let factors = Factors {
        a,
        b,
        magnitude: Some(Magnitude::new(m)),
    };
    let adapter = AdapterPass {
        factors: &factors,
        scale: SCALE,
        mask: Some(key),
    };
    let (y, saved) = linear.forward(backend, &(&x).into(), Some(adapter), None, None)?;
    let dy = dy.into();
    let grad = LinearGrad {
        linear: &linear,
        dy: &dy,
        adapter: Some(adapter),
        saved: saved.as_ref(),
    };
    let (dx, mut found) = backward(backend, &[grad], Some(&(&x).into()))?;
    let grad = found.pop().flatten().expect("gradients of the adapter");
    assert!(largest_difference(&y, &wanted) < 1e-5);
    let wanted = [&vx, &va, &vb, &vm].map(|v| grads.get(v).expect("a gradient"));
    for (ours, theirs) in [&dx].into_iter().chain(grad.tensors()).zip(wanted) {
        assert!(
            largest_difference(ours, theirs) < 1e-4,
            "{ours} and {theirs}"
        );
    }
    Ok(())
}
