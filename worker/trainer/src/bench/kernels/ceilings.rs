//! What the device reaches at its best: a large product and a large copy, which all other rates are
//! compared with.

use candle_core::{DType, Tensor};
use qlora_kernels::{Activations, Term};
use rayon::prelude::*;

use super::setting::Setting;
use super::table::{Place, Table, Work, seconds};
use crate::Result;

/// Sides of the product and bytes of the copy: the first, and the largest.
const SIDES: (usize, usize) = (256, 8192);
const BYTES: (usize, usize) = (1 << 22, 1 << 30);
/// Seconds of a run that is long enough.
const ENOUGH: f64 = 0.004;
/// Bytes that one thread copies at a time.
const PIECE: usize = 1 << 20;

pub(super) fn time(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    time_product(table, setting)?;
    time_copy(table, setting)
}

/// The side doubles until a run takes long enough, so that a slow device is not given the largest.
fn time_product(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let mut side = SIDES.0;
    loop {
        let matrix = || setting.inputs.matrix((side, side), setting.dtype);
        let (x, w): (Activations, _) = (matrix()?.into(), matrix()?);
        let run = || {
            Ok(setting.backend.matmul_forward(
                &[Term {
                    x: &x,
                    w: &w,
                    scale: 1.0,
                }],
                None,
            )?)
        };
        let taken = seconds(setting.case.device, run)?;
        if taken >= ENOUGH || side >= SIDES.1 {
            let work = Work::Flops(2.0 * (side as f64).powi(3));
            table.put(
                Place::Ceiling,
                format!("large product, {side} x {side} x {side}"),
                work,
                0,
                taken,
            );
            return Ok(());
        }
        side *= 2;
    }
}

fn time_copy(table: &mut Table<'_>, setting: &Setting<'_>) -> Result<()> {
    let mut bytes = BYTES.0;
    loop {
        let taken = copy_seconds(setting, bytes)?;
        if taken >= ENOUGH || bytes >= BYTES.1 {
            let work = Work::Bytes(2.0 * bytes as f64);
            table.put(
                Place::Ceiling,
                format!("large copy, {} MiB", bytes >> 20),
                work,
                0,
                taken,
            );
            return Ok(());
        }
        bytes *= 2;
    }
}

/// On a CPU on all threads, as the operations run.
fn copy_seconds(setting: &Setting<'_>, bytes: usize) -> Result<f64> {
    let device = setting.case.device;
    let source = setting.inputs.matrix((bytes / 4096, 1024), DType::F32)?;
    if !device.is_cpu() {
        return seconds(device, || Ok(Tensor::copy(&source)?));
    }
    let source = source.flatten_all()?.to_vec1::<f32>()?;
    let mut copy = vec![0f32; source.len()];
    seconds(device, || {
        let pieces = copy
            .par_chunks_mut(PIECE / 4)
            .zip(source.par_chunks(PIECE / 4));
        pieces.for_each(|(copy, source)| copy.copy_from_slice(source));
        Ok(())
    })
}
