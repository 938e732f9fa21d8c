//! Operations in `f64`, written as their formulas are.

use qlora_kernels::{AttentionShape, GateFunction, RopeAngles, Span};

use crate::fixture::Mat;

/// y, and rstd [M, 1].
pub fn rms_norm(x: &Mat, w: &Mat, epsilon: f64) -> (Mat, Mat) {
    let mean = |i: usize| (0..x.cols).map(|j| x.at(i, j).powi(2)).sum::<f64>() / x.cols as f64;
    let rstd = Mat::new(x.rows, 1, |i, _| 1.0 / (mean(i) + epsilon).sqrt());
    (
        Mat::new(x.rows, x.cols, |i, j| {
            x.at(i, j) * rstd.at(i, 0) * w.at(0, j)
        }),
        rstd,
    )
}

pub fn rms_norm_backward(dy: &Mat, x: &Mat, w: &Mat, rstd: &Mat) -> Mat {
    let t = |i: usize, j: usize| dy.at(i, j) * w.at(0, j);
    let mean = |i: usize| (0..x.cols).map(|j| t(i, j) * x.at(i, j)).sum::<f64>() / x.cols as f64;
    Mat::new(x.rows, x.cols, |i, j| {
        rstd.at(i, 0) * (t(i, j) - x.at(i, j) * rstd.at(i, 0).powi(2) * mean(i))
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// z of a gate, and its slope.
fn inner(gate: GateFunction, g: f64) -> (f64, f64) {
    let slope = 2.0 * std::f64::consts::FRAC_2_PI.sqrt();
    match gate {
        GateFunction::Silu => (g, 1.0),
        GateFunction::GeluTanh => (
            slope * (g + 0.044715 * g.powi(3)),
            slope * (1.0 + 3.0 * 0.044715 * g * g),
        ),
    }
}

pub fn glu(gate: GateFunction, g: &Mat, up: &Mat) -> Mat {
    g.map2(up, |g, up| g * sigmoid(inner(gate, g).0) * up)
}

/// (dg, dup).
pub fn glu_backward(gate: GateFunction, dh: &Mat, g: &Mat, up: &Mat) -> (Mat, Mat) {
    let slope = |g: f64| {
        let (z, dz) = inner(gate, g);
        sigmoid(z) * (1.0 + g * (1.0 - sigmoid(z)) * dz)
    };
    let dg = Mat::new(g.rows, g.cols, |i, j| {
        dh.at(i, j) * up.at(i, j) * slope(g.at(i, j))
    });
    (dg, dh.map2(g, |dh, g| dh * g * sigmoid(inner(gate, g).0)))
}

/// Rotates the heads of `x` by `sign` times the angle of each pair.
pub fn rope(x: &Mat, positions: &[u32], angles: &RopeAngles, sign: f64) -> Mat {
    let (pairs, e) = (angles.inv_freq.len(), angles.head_dim);
    Mat::new(x.rows, x.cols, |i, j| {
        let (head, at) = (j / e * e, j % e);
        if at >= 2 * pairs {
            return x.at(i, j);
        }
        let angle = sign * f64::from(positions[i] as f32 * angles.inv_freq[at % pairs]);
        let (a, b) = (
            x.at(i, head + at % pairs),
            x.at(i, head + at % pairs + pairs),
        );
        f64::from(angles.factor)
            * if at < pairs {
                a * angle.cos() - b * angle.sin()
            } else {
                b * angle.cos() + a * angle.sin()
            }
    })
}

/// cap * tanh(x / cap), and its slope.
pub fn capped(x: f64, cap: Option<f32>) -> (f64, f64) {
    let Some(cap) = cap.map(f64::from) else {
        return (x, 1.0);
    };
    let share = (x / cap).tanh();
    (cap * share, 1.0 - share * share)
}

/// O, the log-sum-exp [H, M] of the scores and, of a gradient of O, dQ, dK and dV.
pub struct Attention {
    pub o: Mat,
    pub lse: Mat,
    pub dq: Mat,
    pub dk: Mat,
    pub dv: Mat,
}

pub fn attention([q, k, v, d_o]: [&Mat; 4], shape: &AttentionShape, spans: &[Span]) -> Attention {
    let zeros = |like: &Mat| Mat::new(like.rows, like.cols, |_, _| 0.0);
    let mut found = Attention {
        o: zeros(q),
        lse: Mat::new(shape.heads, q.rows, |_, _| 0.0),
        dq: zeros(q),
        dk: zeros(k),
        dv: zeros(v),
    };
    let (e, scale) = (shape.head_dim, f64::from(shape.scale));
    for span in spans {
        for head in 0..shape.heads {
            let group = head / (shape.heads / shape.kv_heads);
            for i in 0..span.q.len() {
                let (row, keys) = (span.q.start + i, span.visible(i, shape.window));
                let dot = |a: &Mat, ra: usize, ha: usize, b: &Mat, rb: usize, hb: usize| {
                    (0..e)
                        .map(|c| a.at(ra, ha * e + c) * b.at(rb, hb * e + c))
                        .sum::<f64>()
                };
                let score = |j| scale * dot(q, row, head, k, span.k.start + j, group);
                let (scores, slopes): (Vec<f64>, Vec<f64>) =
                    keys.clone().map(|j| capped(score(j), shape.cap)).unzip();
                let top = scores.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
                found.lse.data[head * q.rows + row] = top + total.ln();
                let p: Vec<f64> = scores.iter().map(|s| (s - top).exp() / total).collect();
                let dp: Vec<f64> = keys
                    .clone()
                    .map(|j| dot(d_o, row, head, v, span.k.start + j, group))
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for (n, j) in keys.enumerate() {
                    let key = span.k.start + j;
                    let ds = p[n] * (dp[n] - delta) * slopes[n] * scale;
                    for c in 0..e {
                        let (at_q, at_k) =
                            (row * q.cols + head * e + c, key * k.cols + group * e + c);
                        found.o.data[at_q] += p[n] * v.data[at_k];
                        found.dq.data[at_q] += ds * k.data[at_k];
                        found.dk.data[at_k] += ds * q.data[at_q];
                        found.dv.data[at_k] += p[n] * d_o.data[at_q];
                    }
                }
            }
        }
    }
    found
}

/// The sum of losses of `logits` under the soft cap, and its gradient with respect to what was
/// capped.
pub fn cross_entropy(logits: &Mat, cap: Option<f32>, targets: &[u32]) -> (f64, Mat) {
    let mut sum = 0.0;
    let part = |f: fn((f64, f64)) -> f64| {
        Mat::new(logits.rows, logits.cols, |i, j| {
            f(capped(logits.at(i, j), cap))
        })
    };
    let (mut grad, slopes) = (part(|both| both.0), part(|both| both.1));
    for (row, &target) in grad.data.chunks_mut(logits.cols).zip(targets) {
        let top = row.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let total: f64 = row.iter().map(|l| (l - top).exp()).sum();
        sum += top + total.ln() - row[target as usize];
        row.iter_mut().for_each(|l| *l = (*l - top).exp() / total);
        row[target as usize] -= 1.0;
    }
    (sum, grad.map2(&slopes, |grad, slope| grad * slope))
}
