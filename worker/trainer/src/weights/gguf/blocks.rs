//! The types of blocks that a GGUF file may hold its tensors in, by the numbers of ggml's
//! `ggml_type`.

/// Numbers and names of those that are read.
const READ: [(u32, &str); 13] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (30, "BF16"),
];

/// Those that ggml has, or had, besides.
const OTHERS: [(u32, &str); 27] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    // What ggml makes of values while it multiplies, and no file of a model has.
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
];

/// What to do with a file that has another type.
pub(super) const SUPPORTED: &str =
    "use a file of F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K to Q6_K";

pub(super) fn is_read(number: u32) -> bool {
    READ.iter().any(|(known, _)| *known == number)
}

pub(super) fn name_of(number: u32) -> Option<&'static str> {
    READ.iter()
        .chain(&OTHERS)
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}
