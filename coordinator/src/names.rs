//! Words of the wire that take a few values, as the engine's types and back.

use qlora_engine as domain;
use qlora_proto as wire;

use crate::error::CallError;

pub fn role(role: domain::FileRole) -> wire::FileRole {
    match role {
        domain::FileRole::Train => wire::FileRole::Train,
        domain::FileRole::Eval => wire::FileRole::Eval,
        domain::FileRole::Adapter => wire::FileRole::Adapter,
    }
}

pub fn role_in(word: &str) -> Result<domain::FileRole, CallError> {
    match wire::FileRole::parse(word) {
        Some(wire::FileRole::Train) => Ok(domain::FileRole::Train),
        Some(wire::FileRole::Eval) => Ok(domain::FileRole::Eval),
        Some(wire::FileRole::Adapter) => Ok(domain::FileRole::Adapter),
        None => Err(CallError::Invalid(format!(
            "a file's role is {}, not `{}`",
            wire::FileRole::words(),
            word.escape_default()
        ))),
    }
}

pub fn artifact_kind(kind: domain::ArtifactKind) -> wire::ArtifactKind {
    match kind {
        domain::ArtifactKind::Checkpoint => wire::ArtifactKind::Checkpoint,
        domain::ArtifactKind::Adapter => wire::ArtifactKind::Adapter,
    }
}

pub fn artifact_kind_in(word: &str) -> Result<domain::ArtifactKind, CallError> {
    match wire::ArtifactKind::parse(word) {
        Some(wire::ArtifactKind::Checkpoint) => Ok(domain::ArtifactKind::Checkpoint),
        Some(wire::ArtifactKind::Adapter) => Ok(domain::ArtifactKind::Adapter),
        None => Err(CallError::Invalid(format!(
            "an artifact's kind is {}, not `{}`",
            wire::ArtifactKind::words(),
            word.escape_default()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_wire_comes_back_as_it_came() {
        for word in wire::FileRole::ALL {
            assert_eq!(role(role_in(word.word()).expect("a role")), *word);
        }
        for word in wire::ArtifactKind::ALL {
            let kind = artifact_kind_in(word.word()).expect("a kind");
            assert_eq!(artifact_kind(kind), *word);
            // The journal has the words of the wire.
            assert_eq!(kind.to_string(), word.word());
        }
    }

    #[test]
    fn another_word_is_refused_with_those_that_there_are() {
        for word in ["", "Train", "trains", "checkpoint", "x\ny"] {
            let said = role_in(word).expect_err(word).to_string();
            let shown = word.escape_default();
            assert_eq!(
                said,
                format!("a file's role is train, eval or adapter, not `{shown}`")
            );
        }
        for word in ["", "train", "adapter "] {
            let said = artifact_kind_in(word).expect_err(word).to_string();
            assert_eq!(
                said,
                format!("an artifact's kind is checkpoint or adapter, not `{word}`")
            );
        }
    }
}
