//! The body of attention's tests, for every backend.

use qlora_kernels::{AttentionSaved, AttentionShape, Result, Span};

use crate::fixture::{Limits, Mat, Subject};
use crate::oracle;
use crate::slopes::gradient_matches;

const OF_O: Limits = Limits {
    bf16: 8e-3,
    ..Limits::steps(1.0)
};

/// A sum that is off by a part of itself has a logarithm that is off by as much, however large that
/// is. A cap rounds the scores besides.
fn of_lse(wanted: &Mat, cap: Option<f32>) -> Limits {
    let top = wanted.data.iter().fold(0f64, |top, v| top.max(v.abs()));
    let in_bf16 = if cap.is_some() { 1e-2 } else { 5e-3 };
    Limits {
        f32: 1e-5 / top,
        bf16: in_bf16 / top,
        ..Limits::steps(0.05)
    }
}

/// Scores and their gradients round more than O does.
const fn of_grads(steps: f64) -> Limits {
    Limits {
        bf16: 8e-3,
        ..Limits::steps(steps)
    }
}

/// Which kernels computed, as far as it shows in what they give: our own put the sums of a head side
/// by side, cuDNN those of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    ByHead,
    ByToken,
}

/// One attention: its inputs, a gradient of O, and what comes of them.
pub struct Case {
    shape: AttentionShape,
    spans: Vec<Span>,
    inputs: [Mat; 4],
    wanted: oracle::Attention,
}

impl Case {
    pub fn new(shape: AttentionShape, spans: &[Span]) -> Self {
        let (m, keys) = (
            spans.iter().map(|s| s.q.len()).sum(),
            spans.iter().map(|s| s.k.len()).sum(),
        );
        let (of_q, of_k) = (
            shape.heads * shape.head_dim,
            shape.kv_heads * shape.head_dim,
        );
        let inputs = [
            Mat::random(m, of_q, 1, 3.0),
            Mat::random(keys, of_k, 2, 1.0),
            Mat::random(keys, of_k, 3, 1.0),
            Mat::random(m, of_q, 4, 1.0),
        ];
        let wanted = oracle::attention(inputs.each_ref(), &shape, spans);
        Self {
            shape,
            spans: spans.to_vec(),
            inputs,
            wanted,
        }
    }

    /// The body of every test: both passes, and gradients against slopes of the forward pass.
    pub fn agrees_on(&self, subject: &Subject) -> Result<Layout> {
        let (shape, wanted) = (&self.shape, &self.wanted);
        let (backend, sequences) = (&subject.backend, subject.backend.sequences(&self.spans)?);
        let [q, k, v, d_o] = self.inputs.each_ref().map(|t| subject.tensor(t));
        let (o, lse) = backend.attention_forward((&q, &k, &v), shape, &sequences)?;
        subject.within(OF_O, "O", &o, &wanted.o);
        let by_token = lse.dims2()? != (wanted.lse.rows, wanted.lse.cols);
        let by_head = if by_token { lse.t()? } else { lse.clone() };
        let limits = of_lse(&wanted.lse, shape.cap);
        subject.within(limits, "the log-sum-exp", &by_head, &wanted.lse);
        let saved = AttentionSaved {
            q: &q,
            k: &k,
            v: &v,
            o: &o,
            lse: &lse,
        };
        let (dq, dk, dv) = backend.attention_backward(&d_o, &saved, shape, &sequences)?;
        // cuDNN rounds more than our kernels do; and what is rounded of O adds up over a head in dS,
        // most over the largest.
        let limits = of_grads(match (by_token, shape.head_dim) {
            (true, _) => 2.0,
            (false, 129..) => 2.5,
            (false, _) => 1.5,
        });
        subject.within(limits, "dQ", &dq, &wanted.dq);
        subject.within(limits, "dK", &dk, &wanted.dk);
        subject.within(limits, "dV", &dv, &wanted.dv);
        // The sums of many rows round more than differences may.
        if q.elem_count() < 10_000 {
            let forward = |q: &_, k: &_, v: &_| {
                Ok(backend.attention_forward((q, k, v), shape, &sequences)?.0)
            };
            gradient_matches(subject, |q| forward(q, &k, &v), &q, &dq, &d_o)?;
            gradient_matches(subject, |k| forward(&q, k, &v), &k, &dk, &d_o)?;
            gradient_matches(subject, |v| forward(&q, &k, v), &v, &dv, &d_o)?;
        }
        Ok(if by_token {
            Layout::ByToken
        } else {
            Layout::ByHead
        })
    }
}
