//! Which form of each operation a backend computes with.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The operations of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    Rows,
    Add,
    Concat,
    Cast,
    Affine,
    EmbeddingNoise,
    RmsNorm,
    Rope,
    Attention,
    Glu,
    Dropout,
    Lora,
    Quantize,
    Dequantize,
    Prefetch,
    Matmul,
    CrossEntropy,
    GradNorm,
    AdamW,
    AdamW8Bit,
    Offload,
}

impl Operation {
    pub const ALL: [Self; 21] = [
        Self::Rows,
        Self::Add,
        Self::Concat,
        Self::Cast,
        Self::Affine,
        Self::EmbeddingNoise,
        Self::RmsNorm,
        Self::Rope,
        Self::Attention,
        Self::Glu,
        Self::Dropout,
        Self::Lora,
        Self::Quantize,
        Self::Dequantize,
        Self::Prefetch,
        Self::Matmul,
        Self::CrossEntropy,
        Self::GradNorm,
        Self::AdamW,
        Self::AdamW8Bit,
        Self::Offload,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Add => "add",
            Self::Concat => "concat",
            Self::Cast => "cast",
            Self::Affine => "scale and bias",
            Self::EmbeddingNoise => "embedding noise",
            Self::RmsNorm => "RMSNorm",
            Self::Rope => "rotary embedding",
            Self::Attention => "attention",
            Self::Glu => "gated activation",
            Self::Dropout => "dropout",
            Self::Lora => "LoRA input",
            Self::Quantize => "quantize",
            Self::Dequantize => "dequantize",
            Self::Prefetch => "prefetch",
            Self::Matmul => "matmul",
            Self::CrossEntropy => "cross entropy",
            Self::GradNorm => "gradient norm",
            Self::AdamW => "AdamW",
            Self::AdamW8Bit => "8-bit AdamW",
            Self::Offload => "offload",
        }
    }
}

/// What computes an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Code for this kind of device: which.
    Native(Cow<'static, str>),
    /// The backend's own other operations, one after another.
    Composed,
    /// candle's operations or host memory: why, where more can be said.
    Reference(Cow<'static, str>),
    /// Nothing: the device has no use for it.
    Unused,
}

impl Form {
    pub(crate) fn native(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Native(what.into())
    }

    pub(crate) fn reference(why: impl Into<Cow<'static, str>>) -> Self {
        Self::Reference(why.into())
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native(what) => f.write_str(what),
            Self::Composed => f.write_str("composed"),
            Self::Reference(why) if why.is_empty() => f.write_str("reference"),
            Self::Reference(why) => write!(f, "reference ({why})"),
            Self::Unused => f.write_str("not used"),
        }
    }
}

/// The form of every operation of a backend, in the order of [`Operation::ALL`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forms(BTreeMap<Operation, Form>);

impl Forms {
    /// `form` of every operation.
    pub(crate) fn new(form: impl Fn(Operation) -> Form) -> Self {
        Self(
            Operation::ALL
                .into_iter()
                .map(|operation| (operation, form(operation)))
                .collect(),
        )
    }

    pub fn iter(&self) -> impl Iterator<Item = (Operation, &Form)> {
        self.0.iter().map(|(&operation, form)| (operation, form))
    }

    pub fn of(&self, operation: Operation) -> Option<&Form> {
        self.0.get(&operation)
    }
}

/// One line: operations of one form together.
impl fmt::Display for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
        for (operation, form) in self.iter().filter(|(_, form)| **form != Form::Unused) {
            let (form, name) = (form.to_string(), operation.name());
            match groups.iter_mut().find(|(of, _)| *of == form) {
                Some((_, names)) => names.push(name),
                None => groups.push((form, vec![name])),
            }
        }
        for (i, (form, names)) in groups.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(f, "{separator}{form}: {}", names.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_groups_operations_by_their_form_and_leaves_out_what_is_not_used() {
        let forms = Forms::new(|operation| match operation {
            Operation::Prefetch | Operation::Offload => Form::Unused,
            Operation::Attention => Form::reference("no kernel for heads of 80"),
            Operation::Rope | Operation::Matmul => Form::native("own kernels"),
            _ => Form::Composed,
        });
        let line = forms.to_string();
        assert!(
            line.contains("own kernels: rotary embedding, matmul"),
            "{line}"
        );
        assert!(
            line.contains("reference (no kernel for heads of 80): attention"),
            "{line}"
        );
        assert!(
            !line.contains("prefetch") && !line.contains("offload"),
            "{line}"
        );
        assert_eq!(forms.iter().count(), Operation::ALL.len());
    }
}
