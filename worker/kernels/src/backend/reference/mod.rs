//! Every operation in candle's operations, correct on every device. Native forms are tested against
//! these, and a backend takes these where it has no native form.

pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod backend;
pub(crate) mod cross_entropy;
pub(crate) mod dropout;
pub(crate) mod glu;
pub(crate) mod lora;
pub(crate) mod matmul;
pub(crate) mod nf4;
pub(crate) mod noise;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rows;
