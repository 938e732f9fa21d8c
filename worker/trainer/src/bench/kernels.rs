//! The operations of a block, each alone, at the sizes that a micro-batch has: where a step's time goes.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use qlora_config::{Compute, TargetModule, TrainingConfig};
use qlora_kernels::ops::cross_entropy::Head;
use qlora_kernels::ops::lora::{self, Lowering};
use qlora_kernels::ops::{attention, cross_entropy, rms_norm, swiglu};
use qlora_kernels::{Activations, DropoutKey, Nf4Tensor, Products, Sequences, Span, Term};
use qlora_planner::ModelShape;
use serde::Serialize;

use crate::Result;
use crate::device::{attention_shape, compute_dtype, products};

/// Runs that are timed, after one that is not.
const RUNS: u32 = 5;

/// One operation.
#[derive(Debug, Clone, Serialize)]
pub struct Timing {
    pub name: String,
    pub milliseconds: f64,
    /// Operations or bytes a second, by what limits it.
    pub rate: f64,
    pub unit: &'static str,
}

/// Times operations on one device and collects them.
struct Table<'a> {
    device: &'a Device,
    timings: Vec<Timing>,
}

impl Table<'_> {
    fn add<T>(&mut self, name: &str, work: f64, unit: &'static str, mut run: impl FnMut() -> Result<T>) -> Result<()> {
        run()?;
        self.device.synchronize()?;
        let start = Instant::now();
        for _ in 0..RUNS {
            run()?;
        }
        self.device.synchronize()?;
        let seconds = start.elapsed().as_secs_f64() / f64::from(RUNS);
        self.timings.push(Timing { name: name.into(), milliseconds: seconds * 1e3, rate: work / seconds, unit });
        Ok(())
    }
}

/// Numbers between -1 and 1.
fn values(shape: (usize, usize), dtype: DType, device: &Device) -> Result<Tensor> {
    let n = shape.0 * shape.1;
    let value = |i: usize| ((i * 7919) % 2003) as f32 / 1001.0 - 1.0;
    let values = Tensor::from_vec((0..n).map(value).collect(), shape, &Device::Cpu)?;
    Ok(values.to_dtype(dtype)?.to_device(device)?)
}

/// Times every operation for a micro-batch of `tokens` tokens in sequences of `length`.
pub fn time(
    shape: &ModelShape,
    config: &TrainingConfig,
    device: &Device,
    (tokens, length): (usize, usize),
) -> Result<Vec<Timing>> {
    let mut table = Table { device, timings: Vec::new() };
    let how = products(Compute::Auto, device);
    time_products(&mut table, shape, config, how, tokens)?;
    time_adapters(&mut table, shape, config, how, tokens)?;
    time_attention(&mut table, shape, how, (tokens, length))?;
    time_element_wise(&mut table, shape, how, tokens)?;
    time_loss(&mut table, shape, how, tokens)?;
    Ok(table.timings)
}

fn time_products(
    table: &mut Table<'_>,
    shape: &ModelShape,
    config: &TrainingConfig,
    how: Products,
    tokens: usize,
) -> Result<()> {
    let (dtype, device) = (compute_dtype(table.device), table.device);
    for module in [TargetModule::QProj, TargetModule::KProj, TargetModule::GateProj, TargetModule::DownProj] {
        let (n, k) = shape.projection(module);
        let plain = values((n, k), DType::F32, &Device::Cpu)?;
        let matrix = Nf4Tensor::quantise_matrix(&plain, config.model.block_size, config.model.double_quant, device)?;
        let bytes = (n * k) as f64 * (0.516 + dtype.size_in_bytes() as f64);
        table.add(&format!("{module} dequantised"), bytes, "B/s", || Ok(matrix.dequantise(dtype)?))?;
        let written = matrix.dequantise(dtype)?;
        let (x, dy) = (values((tokens, k), dtype, device)?.into(), values((tokens, n), dtype, device)?.into());
        let work = 2.0 * (tokens * n * k) as f64;
        let forward = || Ok(how.forward(&[Term { x: &x, w: &written, scale: 1.0 }], None)?);
        table.add(&format!("{module} forward"), work, "FLOP/s", forward)?;
        let backward = || Ok(how.backward(&[Term { x: &dy, w: &written, scale: 1.0 }], None)?);
        table.add(&format!("{module} backward"), work, "FLOP/s", backward)?;
    }
    Ok(())
}

/// What adapters of queries, keys and values do with the input that they share.
fn time_adapters(
    table: &mut Table<'_>,
    shape: &ModelShape,
    config: &TrainingConfig,
    how: Products,
    tokens: usize,
) -> Result<()> {
    let (dtype, device, rank) = (compute_dtype(table.device), table.device, config.lora.r);
    let x = values((tokens, shape.hidden), dtype, device)?;
    let bytes = (x.elem_count() * dtype.size_in_bytes()) as f64;
    let x = Activations::from(x);
    let a = values((rank, shape.hidden), DType::F32, device)?;
    let du = values((tokens, rank), dtype, device)?.into();
    let mask = |projection| DropoutKey { seed: 1, step: 1, projection, first_token: 0, probability: 0.05 };
    let adapters = [0, 1, 2].map(|projection| Lowering { a: &a, mask: Some(mask(projection)) });
    table.add("adapters of q, k, v forward", bytes, "B/s", || Ok(lora::forward(how, &x, &adapters)?))?;
    let pulls = adapters.map(|adapter| (adapter, &du));
    table.add("adapters of q, k, v backward", 2.0 * bytes, "B/s", || Ok(lora::backward(how, &x, &pulls)?))
}

fn time_attention(
    table: &mut Table<'_>,
    shape: &ModelShape,
    how: Products,
    (tokens, length): (usize, usize),
) -> Result<()> {
    let (dtype, device) = (compute_dtype(table.device), table.device);
    let sizes = attention_shape(shape);
    let (width, kv_width) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
    let [q, d_o] = [values((tokens, width), dtype, device)?, values((tokens, width), dtype, device)?];
    let [k, v] = [values((tokens, kv_width), dtype, device)?, values((tokens, kv_width), dtype, device)?];
    let mut lengths = vec![length; tokens / length];
    lengths.extend((!tokens.is_multiple_of(length)).then_some(tokens % length));
    let sequences = Sequences::new(&Span::packed(&lengths), device)?;
    let work: f64 = lengths.iter().map(|&t| 2.0 * (width * t * t) as f64).sum();
    let run = || Ok(attention::forward((&q, &k, &v), &sizes, &sequences, how)?);
    table.add("attention forward", work, "FLOP/s", run)?;
    let (o, lse) = run()?;
    let saved = attention::Saved { q: &q, k: &k, v: &v, o: &o, lse: &lse };
    let run = || Ok(attention::backward(&d_o, &saved, &sizes, &sequences, how)?);
    table.add("attention backward", 2.5 * work, "FLOP/s", run)
}

fn time_element_wise(table: &mut Table<'_>, shape: &ModelShape, how: Products, tokens: usize) -> Result<()> {
    let (dtype, device) = (compute_dtype(table.device), table.device);
    let x = values((tokens, shape.hidden), dtype, device)?;
    let w = values((1, shape.hidden), dtype, device)?.squeeze(0)?;
    let bytes = (x.elem_count() * dtype.size_in_bytes()) as f64;
    table.add("norm forward", 2.0 * bytes, "B/s", || Ok(rms_norm::forward_on(&x, &w, 1e-5, how)?))?;
    let (_, rho) = rms_norm::forward(&x, &w, 1e-5)?;
    let backward = || Ok(rms_norm::backward(&x, &x, &w, &rho, Some(&x))?);
    table.add("norm backward", 4.0 * bytes, "B/s", backward)?;
    let [g, e, dh] = [(); 3].map(|()| values((tokens, shape.ffn), dtype, device).map(Activations::from));
    let (g, e, dh) = (g?, e?, dh?);
    let bytes = (tokens * shape.ffn * dtype.size_in_bytes()) as f64;
    table.add("gated activation forward", 3.0 * bytes, "B/s", || Ok(swiglu::forward(&g, &e)?))?;
    table.add("gated activation backward", 5.0 * bytes, "B/s", || Ok(swiglu::backward(&dh, &g, &e)?))
}

fn time_loss(table: &mut Table<'_>, shape: &ModelShape, how: Products, tokens: usize) -> Result<()> {
    let (dtype, device) = (compute_dtype(table.device), table.device);
    let rows = tokens.min(1024);
    let hidden = values((rows, shape.hidden), dtype, device)?;
    let head = values((shape.vocabulary, shape.hidden), dtype, device)?;
    let targets: Vec<u32> = (0..rows).map(|i| (i * 31 % shape.vocabulary) as u32).collect();
    let work = 4.0 * (rows * shape.vocabulary * shape.hidden) as f64;
    let name = format!("output layer and loss, {rows} rows");
    let head = Head { weight: &head, products: how, rows };
    let run = || Ok(cross_entropy::forward_backward(&hidden, head, &targets, Some(1.0))?);
    table.add(&name, work, "FLOP/s", run)
}
