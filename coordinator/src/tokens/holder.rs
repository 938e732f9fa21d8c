//! Whose token it is that a request brings.

use std::sync::Arc;

use qlora_proto::Role;

use super::issued::Issued;

/// What the journal calls the first token, which programs of the machine find by themselves.
pub const LOCAL: &str = "local";

/// Who holds the token that was shown.
#[derive(Debug, Clone)]
pub enum Holder {
    /// That of the first token.
    Local,
    Issued(Arc<Issued>),
}

impl Holder {
    pub fn role(&self) -> Role {
        match self {
            Self::Local => Role::Admin,
            Self::Issued(token) => token.role,
        }
    }

    /// The token's name, or its number where it has none.
    pub fn who(&self) -> String {
        match self {
            Self::Local => LOCAL.into(),
            Self::Issued(token) => token.who(),
        }
    }

    /// The token, where it can expire and be revoked.
    pub fn issued(&self) -> Option<&Arc<Issued>> {
        match self {
            Self::Local => None,
            Self::Issued(token) => Some(token),
        }
    }
}

impl PartialEq for Holder {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Local, Self::Local) => true,
            (Self::Issued(one), Self::Issued(other)) => one.id == other.id,
            _ => false,
        }
    }
}

impl Eq for Holder {}
