//! The identity of a coordinator: jobs, tokens and saved steps mean something to that one only.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Letters of the id: 128 random bits as hex text.
const LETTERS: usize = 32;
/// Letters that tell two coordinators apart in names of folders and in logs.
const SHORT: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CoordinatorId(String);

#[derive(Debug, thiserror::Error)]
#[error("a coordinator's id is {LETTERS} hex digits")]
pub struct NoId;

impl TryFrom<String> for CoordinatorId {
    type Error = NoId;

    fn try_from(text: String) -> Result<Self, NoId> {
        let is_id = text.len() == LETTERS && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_id { Ok(Self(text)) } else { Err(NoId) }
    }
}

impl From<CoordinatorId> for String {
    fn from(id: CoordinatorId) -> Self {
        id.0
    }
}

impl fmt::Display for CoordinatorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..SHORT).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_id_can_name_no_folder() {
        let id =
            CoordinatorId::try_from("0123456789abcdef0123456789ABCDEF".to_owned()).expect("an id");
        assert_eq!(
            (id.to_string(), String::from(id).len()),
            ("01234567".to_owned(), 32)
        );
        for text in [
            "",
            "0123",
            "../../../../../../../../../../etc",
            "0123456789abcdef0123456789abcdeg",
        ] {
            assert!(CoordinatorId::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
