//! Matrices in `f64`.

use candle_core::{Device, Tensor};
use qlora_testkit::tensors::{elements, uniform};

/// A matrix in `f64`, whose elements bf16 has too where it is an input.
#[derive(Debug, Clone, PartialEq)]
pub struct Mat {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Mat {
    pub fn new(rows: usize, cols: usize, mut element: impl FnMut(usize, usize) -> f64) -> Self {
        let data = (0..rows * cols)
            .map(|i| element(i / cols, i % cols))
            .collect();
        Self { rows, cols, data }
    }

    /// Uniform in about -`size` to `size`, in steps that bf16 has.
    pub fn random(rows: usize, cols: usize, seed: u64, size: f64) -> Self {
        let mut values = uniform(seed);
        Self::new(rows, cols, |_, _| {
            let value = size * values.next().expect("values have no end");
            f64::from(half::bf16::from_f64(value).to_f32())
        })
    }

    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.data[row * self.cols + col]
    }

    pub fn t(&self) -> Self {
        Self::new(self.cols, self.rows, |i, j| self.at(j, i))
    }

    pub fn times(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        Self::new(self.rows, other.cols, |i, j| {
            (0..self.cols).map(|k| self.at(i, k) * other.at(k, j)).sum()
        })
    }

    pub fn map2(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        Self::new(self.rows, self.cols, |i, j| {
            f(self.at(i, j), other.at(i, j))
        })
    }

    pub fn plus(&self, other: &Self) -> Self {
        self.map2(other, |a, b| a + b)
    }

    pub fn scaled(&self, factor: f64) -> Self {
        self.map(|value| factor * value)
    }

    pub fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self::new(self.rows, self.cols, |i, j| f(self.at(i, j)))
    }

    /// In steps that bf16 has.
    pub fn rounded(&self) -> Self {
        self.map(|value| f64::from(half::bf16::from_f64(value).to_f32()))
    }

    /// In steps that `f32` has, on the CPU.
    pub fn floats(&self) -> Tensor {
        let floats: Vec<f32> = self.data.iter().map(|&value| value as f32).collect();
        Tensor::from_vec(floats, (self.rows, self.cols), &Device::Cpu).expect("a tensor")
    }

    /// The elements of a tensor, in its rows where it is a matrix.
    pub fn of(tensor: &Tensor) -> Self {
        let (found, cols) = (elements(tensor), tensor.dims().last().copied().unwrap_or(1));
        Self::new(found.len() / cols.max(1), cols, |i, j| {
            f64::from(found[i * cols + j])
        })
    }
}
