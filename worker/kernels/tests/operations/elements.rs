//! Operations whose elements or rows stand for themselves.

use candle_core::{DType, Device, Tensor};
use qlora_kernels::{
    Activations, Backend, DropoutKey, GateFunction, NormWeight, RopeAngles, RopeTable, Span,
};

use crate::fixture::{Mat, on_every};
use crate::oracle;

#[test]
fn rms_norm() {
    for (m, d) in [(1, 9), (7, 53), (3, 1100)] {
        norm_agrees(m, d, false);
        norm_agrees(m, d, true);
    }
}

fn norm_agrees(m: usize, d: usize, unit_offset: bool) {
    let [x, dy, base] = [1, 2, 3].map(|seed| Mat::random(m, d, seed, 1.0));
    let weight = Mat::random(1, d, 4, 1.0);
    let factor = Mat::new(1, d, |_, j| {
        weight.at(0, j) + if unit_offset { 1.0 } else { 0.0 }
    });
    let (y, rstd) = oracle::rms_norm(&x, &factor, 1e-5);
    let dx = oracle::rms_norm_backward(&dy, &x, &factor, &rstd);
    on_every(|subject| {
        let backend = &subject.backend;
        let [tx, tdy, tbase] = [&x, &dy, &base].map(|t| subject.tensor(t));
        let weight = &subject.tensor(&weight).squeeze(0)?;
        let w = NormWeight {
            weight,
            unit_offset,
        };
        let (ty, trstd) = backend.rms_norm_forward(&tx, w, 1e-5)?;
        subject.close("y", &ty, &y);
        subject.close("rstd", &trstd, &rstd);
        let (on, rstd_on) = backend.rms_norm_forward_on(&tx, w, 1e-5)?;
        subject.close("y for products", on.tensor()?, &y);
        subject.close("rstd for products", &rstd_on, &rstd);
        let alone = backend.rms_norm_backward(&tdy, &tx, w, &trstd, None)?;
        subject.close("dx", &alone, &dx);
        let onto = backend.rms_norm_backward(&tdy, &tx, w, &trstd, Some(&tbase))?;
        subject.close("base + dx", &onto, &dx.plus(&base));
        Ok(())
    });
}

#[test]
fn gated_activations() {
    let (g, up, dh) = (
        Mat::random(5, 37, 1, 6.0),
        Mat::random(5, 37, 2, 1.0),
        Mat::random(5, 37, 3, 1.0),
    );
    for gate in [GateFunction::Silu, GateFunction::GeluTanh] {
        let h = oracle::glu(gate, &g, &up);
        let (dg, dup) = oracle::glu_backward(gate, &dh, &g, &up);
        on_every(|subject| {
            let backend = &subject.backend;
            let [tg, tup, tdh] = [&g, &up, &dh].map(|t| Activations::from(subject.tensor(t)));
            let found = backend.glu_forward(gate, &tg, &tup)?;
            subject.close("h", found.tensor()?, &h);
            let (found_dg, found_dup) = backend.glu_backward(gate, &tdh, &tg, &tup)?;
            subject.close("dg", found_dg.tensor()?, &dg);
            subject.close("dup", found_dup.tensor()?, &dup);
            let (over_dg, over_dup) = backend.glu_backward_over(gate, tdh, &tg, &tup)?;
            subject.close("dg over dh", over_dg.tensor()?, &dg);
            subject.close("dup over dh", over_dup.tensor()?, &dup);
            Ok(())
        });
    }
}

#[test]
fn scale_and_bias() {
    // Rows of whole runs of eight, and others.
    for d in [37, 64] {
        let (x, bias) = (Mat::random(5, d, 1, 1.0), Mat::random(1, d, 2, 1.0));
        for scale in [1.0, 1.75] {
            let scaled = x.scaled(scale);
            let shifted = Mat::new(5, d, |i, j| scaled.at(i, j) + bias.at(0, j));
            on_every(|subject| {
                let (tx, tbias) = (subject.tensor(&x), subject.tensor(&bias).squeeze(0)?);
                let affine = |bias| subject.backend.affine(&tx, scale, bias);
                subject.close("scaled", &affine(None)?, &scaled);
                subject.close("with a bias", &affine(Some(&tbias))?, &shifted);
                Ok(())
            });
        }
    }
}

#[test]
fn columns_are_split_and_joined() {
    // Parts that begin at multiples of 16 bytes, and others.
    for widths in [[16, 8, 24], [5, 1, 12]] {
        let x = Mat::random(7, widths.iter().sum(), 1, 1.0);
        on_every(|subject| {
            let (backend, mut start) = (&subject.backend, 0);
            let parts = backend.split_columns(&subject.tensor(&x), &widths)?;
            assert_eq!(parts.len(), widths.len());
            for (part, width) in parts.iter().zip(widths) {
                assert_eq!(part.dims(), [7, width]);
                subject.close("part", part, &Mat::new(7, width, |i, j| x.at(i, start + j)));
                start += width;
            }
            let whole = backend.join_columns(&parts.iter().collect::<Vec<_>>())?;
            assert_eq!(whole.dims(), [7, x.cols]);
            subject.close("whole", &whole, &x);
            Ok(())
        });
    }
}

#[test]
fn rope() {
    // Pair by pair, and eight pairs at a time.
    for pairs in [6, 24] {
        rotation_agrees(2 * pairs, pairs, 1.0);
    }
}

/// The rest of a head stays, whatever the factor.
#[test]
fn rope_of_a_part_of_a_head() {
    // E and P; the rest is a multiple of eight elements behind whole eights of pairs, is not, and
    // comes one by one.
    for (head_dim, pairs) in [(48, 16), (20, 8), (96, 36), (32, 12), (10, 2)] {
        rotation_agrees(head_dim, pairs, 1.0);
        rotation_agrees(head_dim, pairs, 1.375);
    }
    rotation_agrees(48, 24, 1.375);
}

fn rotation_agrees(head_dim: usize, pairs: usize, factor: f32) {
    let mut spans = Span::packed(&[3, 2]);
    spans.push(Span { q: 5..6, k: 5..45 });
    let positions = [0, 1, 2, 0, 1, 39];
    let angles = RopeAngles {
        inv_freq: (0..pairs as i32).map(|i| 0.8f32.powi(i)).collect(),
        head_dim,
        factor,
    };
    let x = Mat::random(6, 3 * head_dim, 7, 1.0);
    let wanted = |sign| oracle::rope(&x, &positions, &angles, sign);
    on_every(|subject| {
        let backend = &subject.backend;
        let table = RopeTable::new(&angles, 40, backend.device())?;
        let (rows, tx) = (backend.sequences(&spans)?, subject.tensor(&x));
        assert_eq!(rows.positions(), positions);
        let forward = backend.rope_forward(&table, &tx, &rows)?;
        subject.close("forward", &forward, &wanted(1.0));
        let backward = backend.rope_backward(&table, &tx, &rows)?;
        subject.close("backward", &backward, &wanted(-1.0));
        Ok(())
    });
}

/// All backends draw one mask.
#[test]
fn dropout() {
    let (ones, x, base) = (
        Mat::new(9, 37, |_, _| 1.0),
        Mat::random(9, 37, 1, 1.0),
        Mat::random(9, 37, 2, 1.0),
    );
    let key = DropoutKey {
        seed: 0x1234_5678_9abc,
        step: 9,
        projection: 77,
        first_token: 3,
        probability: 0.3,
    };
    let mask = |backend: &dyn Backend, ones: Tensor| {
        let masked = backend.dropout(&ones.into(), &key)?;
        masked
            .tensor()?
            .to_device(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1::<f32>()
    };
    let reference = qlora_kernels::backend::reference(&Device::Cpu, DType::F32);
    let drawn = mask(
        &*reference,
        Tensor::ones((9, 37), DType::F32, &Device::Cpu).expect("ones"),
    );
    let drawn = drawn.expect("a mask");
    assert!(
        drawn.contains(&0.0)
            && drawn
                .iter()
                .all(|&f| f == 0.0 || (f - 1.0 / 0.7).abs() < 1e-6)
    );
    let kept = Mat::new(9, 37, |i, j| f64::from(drawn[i * 37 + j]));
    on_every(|subject| {
        let backend = &subject.backend;
        let found = mask(&**backend, subject.tensor(&ones))?;
        assert!(
            found
                .iter()
                .zip(&drawn)
                .all(|(a, b)| (*a == 0.0) == (*b == 0.0)),
            "{}",
            subject.name
        );
        let wanted = x.map2(&kept, |x, f| x * f);
        let tx = subject.tensor(&x);
        subject.close(
            "masked",
            backend.dropout(&(&tx).into(), &key)?.tensor()?,
            &wanted,
        );
        let onto = backend.add_dropout(&tx, &key, Some(&subject.tensor(&base)))?;
        subject.close("base + masked", &onto, &wanted.plus(&base));
        Ok(())
    });
}

#[test]
fn rows_and_sums() {
    let (table, ids) = (Mat::random(19, 33, 1, 1.0), [3u32, 18, 0]);
    let picked = Mat::new(3, 33, |i, j| table.at(ids[i] as usize, j));
    let place = |i: usize| ids.iter().position(|&id| id as usize == i);
    let scattered = Mat::new(19, 33, |i, j| place(i).map_or(0.0, |row| picked.at(row, j)));
    on_every(|subject| {
        let (backend, t) = (&subject.backend, subject.tensor(&table));
        let ids = Tensor::new(&ids, backend.device())?;
        let rows = backend.gather_rows(&t, &ids)?;
        subject.close("gather", &rows, &picked);
        subject.close(
            "scatter",
            &backend.scatter_rows(&rows, &ids, 19)?,
            &scattered,
        );
        let both = Mat::new(22, 33, |i, j| {
            if i < 3 {
                picked.at(i, j)
            } else {
                table.at(i - 3, j)
            }
        });
        subject.close("append", &backend.append_rows(&rows, &t)?, &both);
        // Parts that begin at whole 16 bytes, and parts that do not.
        for widths in [[16, 16, 1], [7, 8, 18]] {
            let parts = backend.split_columns(&t, &widths)?;
            let mut start = 0;
            for (part, width) in parts.iter().zip(widths) {
                let columns = Mat::new(19, width, |i, j| table.at(i, start + j));
                subject.close("columns", part, &columns);
                start += width;
            }
            let together = backend.join_columns(&parts.iter().collect::<Vec<_>>())?;
            subject.close("joined columns", &together, &table);
        }
        subject.close("add", &backend.add(&t, &t)?, &table.scaled(2.0));
        let wide = subject.tensor_of(&table, DType::F32);
        subject.close(
            "concat",
            &backend.concat(&[&wide, &wide])?,
            &Mat::new(38, 33, |i, j| table.at(i % 19, j)),
        );
        let cast = backend.cast(&wide, DType::BF16)?;
        assert_eq!(cast.dtype(), DType::BF16);
        subject.close("cast", &cast, &table);
        let mut offloaded = backend.offload(&t)?;
        offloaded.release()?;
        offloaded.prefetch()?;
        subject.close("offload", &offloaded.take()?, &table);
        Ok(())
    });
}
