//! What the forward pass of an adapter saves for its backward pass, by the kind of the adapter.

use super::dora::DoraSaved;
use super::lora::LoraSaved;

pub enum AdapterSaved {
    Lora(LoraSaved),
    Dora(DoraSaved),
}

impl AdapterSaved {
    /// Whether it is small, and enough to run the adapter again.
    pub fn is_small(&self) -> bool {
        matches!(self, Self::Lora(_))
    }
}

impl From<LoraSaved> for AdapterSaved {
    fn from(saved: LoraSaved) -> Self {
        Self::Lora(saved)
    }
}

impl From<DoraSaved> for AdapterSaved {
    fn from(saved: DoraSaved) -> Self {
        Self::Dora(saved)
    }
}
