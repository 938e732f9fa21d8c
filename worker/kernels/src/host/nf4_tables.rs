//! The code table of 4-bit NormalFloat (Dettmers et al., QLoRA, 2023) as bitsandbytes has it.

/// The sixteen values that a 4-bit code stands for.
pub(crate) const NF4: [f32; 16] = [
    -1.0,
    -0.6961928,
    -0.52507305,
    -0.3949175,
    -0.28444138,
    -0.18477343,
    -0.091050036,
    0.0,
    0.0795803,
    0.1609302,
    0.2461123,
    0.33791524,
    0.44070983,
    0.562617,
    0.72295684,
    1.0,
];

/// A value above midpoint `i` takes at least code `i + 1`; one exactly on it takes the lower code.
pub(crate) const NF4_MIDPOINTS: [f32; 15] = [
    -0.8480964,
    -0.6106329,
    -0.45999527,
    -0.33967942,
    -0.2346074,
    -0.13791174,
    -0.045525018,
    0.03979015,
    0.12025525,
    0.20352125,
    0.29201376,
    0.38931254,
    0.50166345,
    0.6427869,
    0.86147845,
];
