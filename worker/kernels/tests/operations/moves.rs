//! What is moved, joined, split, cast and added, and not multiplied.

use candle_core::{DType, Tensor};
use qlora_testkit::tensors::uniform;

use crate::fixture::{Mat, on_every};

#[test]
fn columns_are_split_and_joined() {
    // Parts that begin at multiples of 16 bytes, and others.
    for widths in [[16, 8, 24], [16, 16, 1], [5, 1, 12], [7, 8, 18]] {
        let x = Mat::random(7, widths.iter().sum(), 1, 1.0);
        on_every(|subject| {
            let (backend, mut start) = (&subject.backend, 0);
            let parts = backend.split_columns(&subject.tensor(&x), &widths)?;
            assert_eq!(parts.len(), widths.len());
            for (part, width) in parts.iter().zip(widths) {
                assert_eq!(part.dims(), [7, width]);
                subject.same("part", part, &Mat::new(7, width, |i, j| x.at(i, start + j)));
                start += width;
            }
            let whole = backend.join_columns(&parts.iter().collect::<Vec<_>>())?;
            assert_eq!(whole.dims(), [7, x.cols]);
            subject.same("whole", &whole, &x);
            Ok(())
        });
    }
}

#[test]
fn rows_go_where_they_should() {
    for d in [7, 33, 64, 1032, 17_000] {
        let (table, ids) = (Mat::random(19, d, 1, 1.0), [3u32, 18, 0]);
        let picked = Mat::new(3, d, |i, j| table.at(ids[i] as usize, j));
        let place = |i: usize| ids.iter().position(|&id| id as usize == i);
        let scattered = Mat::new(19, d, |i, j| place(i).map_or(0.0, |row| picked.at(row, j)));
        let both = Mat::new(22, d, |i, j| match i.checked_sub(3) {
            None => picked.at(i, j),
            Some(row) => table.at(row, j),
        });
        on_every(|subject| {
            let (backend, t) = (&subject.backend, subject.tensor(&table));
            let ids = Tensor::new(&ids, backend.device())?;
            let rows = backend.gather_rows(&t, &ids)?;
            subject.same("gather", &rows, &picked);
            let there = backend.scatter_rows(&rows, &ids, 19)?;
            subject.same("scatter", &there, &scattered);
            subject.same("append", &backend.append_rows(&rows, &t)?, &both);
            Ok(())
        });
    }
}

#[test]
fn casts_and_sums() {
    for n in [77, 4096] {
        let mut values = uniform(22);
        let x = Mat::new(1, n, |_, _| values.next().expect("values have no end"));
        let behind = Mat::new(1, n - 3, |_, j| x.at(0, j + 1));
        on_every(|subject| {
            let backend = &subject.backend;
            let t = subject.tensor_of(&x, DType::F32).squeeze(0)?;
            let cast = backend.cast(&t, DType::BF16)?;
            assert_eq!(cast.dtype(), DType::BF16);
            subject.same("cast", &cast, &x.rounded());
            subject.same("add", &backend.add(&t, &t)?, &x.scaled(2.0));
            // One that begins at no multiple of 16 bytes.
            let t = t.narrow(0, 1, n - 3)?;
            subject.same("add of a part", &backend.add(&t, &t)?, &behind.scaled(2.0));
            let t = subject.tensor(&x.rounded());
            let twice = x.rounded().scaled(2.0);
            subject.same("add of activations", &backend.add(&t, &t)?, &twice);
            Ok(())
        });
    }
}

/// Tensors of any shape, one behind the other.
#[test]
fn tensors_are_joined() {
    let (row, matrix) = (Mat::random(1, 7, 1, 1.0), Mat::random(2, 3, 2, 1.0));
    let joined = [&row.data[..], &matrix.data].concat();
    let large = Mat::random(19, 33, 3, 1.0);
    on_every(|subject| {
        let of = |t: &Mat| subject.tensor_of(t, DType::F32);
        let parts = [of(&row).squeeze(0)?, of(&matrix)];
        let found = subject.backend.concat(&[&parts[0], &parts[1]])?;
        subject.same(
            "a row and a matrix",
            &found,
            &Mat::new(1, 13, |_, j| joined[j]),
        );
        let (found, twice) = (
            subject.backend.concat(&[&of(&large), &of(&large)])?,
            Mat::new(38, 33, |i, j| large.at(i % 19, j)),
        );
        subject.same("two matrices", &found, &twice);
        Ok(())
    });
}

/// Twice, so that memory of the host is used again; the last one is dropped without being brought
/// back.
#[test]
fn tensors_come_back_from_host_memory_as_they_were() {
    let originals = [5, 6, 7].map(|m| Mat::random(m, 33, m as u64, 1.0));
    on_every(|subject| {
        let send = |original: &Mat| subject.backend.offload(&subject.tensor(original));
        for _ in 0..2 {
            let mut sent = Vec::new();
            for original in &originals {
                let mut away = send(original)?;
                away.release()?;
                sent.push(away);
            }
            drop(sent.pop());
            sent[1].prefetch()?;
            for (away, original) in sent.into_iter().zip(&originals).rev() {
                subject.same("what was released", &away.take()?, original);
            }
            let kept = send(&originals[0])?;
            subject.same("what was not", &kept.take()?, &originals[0]);
        }
        Ok(())
    });
}
