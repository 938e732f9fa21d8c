//! Words of the wire that take a few values, as the engine's types and back.

use qlora_config::has_visible;
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

pub fn job_state(state: &domain::JobState) -> wire::JobState {
    match state {
        domain::JobState::Queued { .. } => wire::JobState::Queued,
        domain::JobState::Running { .. } => wire::JobState::Running,
        domain::JobState::Paused { .. } => wire::JobState::Paused,
        domain::JobState::Succeeded { .. } => wire::JobState::Succeeded,
        domain::JobState::Failed { .. } => wire::JobState::Failed,
        domain::JobState::Cancelled { .. } => wire::JobState::Cancelled,
    }
}

pub fn event_kind(kind: domain::JournalKind) -> wire::EventKind {
    match kind {
        domain::JournalKind::Submitted => wire::EventKind::Submitted,
        domain::JournalKind::Started => wire::EventKind::Started,
        domain::JournalKind::Saved => wire::EventKind::Saved,
        domain::JournalKind::Stopping => wire::EventKind::Stopping,
        domain::JournalKind::Requeued => wire::EventKind::Requeued,
        domain::JournalKind::Succeeded => wire::EventKind::Succeeded,
        domain::JournalKind::Failed => wire::EventKind::Failed,
        domain::JournalKind::Cancelled => wire::EventKind::Cancelled,
        domain::JournalKind::Paused => wire::EventKind::Paused,
        domain::JournalKind::Resumed => wire::EventKind::Resumed,
        domain::JournalKind::Unreadable => wire::EventKind::Unreadable,
        domain::JournalKind::Registered => wire::EventKind::Registered,
        domain::JournalKind::Lost => wire::EventKind::Lost,
        domain::JournalKind::Removed => wire::EventKind::Removed,
        domain::JournalKind::Pruned => wire::EventKind::Pruned,
        domain::JournalKind::SetAside => wire::EventKind::SetAside,
        domain::JournalKind::Drained => wire::EventKind::Drained,
        domain::JournalKind::Undrained => wire::EventKind::Undrained,
    }
}

/// Characters of an artifact's name, at the most.
const LONGEST_ARTIFACT_NAME: usize = 200;

/// The name of an artifact, which others may make a file of.
pub fn artifact_name(name: String) -> Result<String, CallError> {
    let is_of_a_file = !matches!(name.as_str(), "." | "..")
        && !name
            .chars()
            .any(|c| c.is_control() || matches!(c, '/' | '\\'));
    if is_of_a_file && has_visible(&name) && name.chars().count() <= LONGEST_ARTIFACT_NAME {
        return Ok(name);
    }
    let shown: String = name.chars().take(LONGEST_ARTIFACT_NAME).collect();
    Err(CallError::Invalid(format!(
        "an artifact's name is 1 to {LONGEST_ARTIFACT_NAME} characters without slashes and control characters, not `{}`",
        shown.escape_default()
    )))
}

/// Of `what` that nobody can see.
pub fn invisible(what: &str) -> CallError {
    CallError::Invalid(format!("{what} has no character that can be seen"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The inverse of [`event_kind`]; programs only read the words of the journal. The engine
    /// knows nothing of configurations' names and of tokens.
    fn event_kind_in(kind: wire::EventKind) -> Option<domain::JournalKind> {
        Some(match kind {
            wire::EventKind::Submitted => domain::JournalKind::Submitted,
            wire::EventKind::Started => domain::JournalKind::Started,
            wire::EventKind::Saved => domain::JournalKind::Saved,
            wire::EventKind::Stopping => domain::JournalKind::Stopping,
            wire::EventKind::Requeued => domain::JournalKind::Requeued,
            wire::EventKind::Succeeded => domain::JournalKind::Succeeded,
            wire::EventKind::Failed => domain::JournalKind::Failed,
            wire::EventKind::Cancelled => domain::JournalKind::Cancelled,
            wire::EventKind::Paused => domain::JournalKind::Paused,
            wire::EventKind::Resumed => domain::JournalKind::Resumed,
            wire::EventKind::Unreadable => domain::JournalKind::Unreadable,
            wire::EventKind::Registered => domain::JournalKind::Registered,
            wire::EventKind::Lost => domain::JournalKind::Lost,
            wire::EventKind::Removed => domain::JournalKind::Removed,
            wire::EventKind::Pruned => domain::JournalKind::Pruned,
            wire::EventKind::SetAside => domain::JournalKind::SetAside,
            wire::EventKind::Drained => domain::JournalKind::Drained,
            wire::EventKind::Undrained => domain::JournalKind::Undrained,
            wire::EventKind::Put | wire::EventKind::Created | wire::EventKind::Revoked => {
                return None;
            }
        })
    }

    #[test]
    fn an_artifact_has_the_name_of_a_file() {
        for name in ["checkpoint-000010.tar", "an adapter", "\u{65e5}"] {
            assert_eq!(artifact_name(name.into()).expect(name), name);
        }
        let long = "x".repeat(LONGEST_ARTIFACT_NAME + 1);
        for name in [
            "",
            "..",
            "../x",
            "a/b",
            "a\\b",
            "a\nb",
            "\x1b[2J",
            "\u{200b}",
            long.as_str(),
        ] {
            let fault = artifact_name(name.into()).expect_err(name).to_string();
            assert!(!fault.contains('\x1b') && !fault.contains('\n'), "{fault}");
        }
    }

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
        for word in wire::EventKind::ALL {
            let Some(kind) = event_kind_in(*word) else {
                continue;
            };
            assert_eq!(event_kind(kind), *word);
            // The store looks entries up by the engine's words.
            assert_eq!(kind.word(), word.word());
        }
    }

    #[test]
    fn the_engine_calls_the_state_of_a_job_as_the_wire_does() {
        let (at, reason) = (domain::Millis(0), String::new());
        let states = [
            domain::JobState::Queued { not_before: at },
            domain::JobState::Running {
                token: domain::Token(1),
                worker: String::new(),
                stopping: None,
            },
            domain::JobState::Succeeded { at },
            domain::JobState::Failed {
                at,
                reason: reason.clone(),
                code: String::new(),
            },
            domain::JobState::Paused {
                at,
                reason: reason.clone(),
            },
            domain::JobState::Cancelled { at, reason },
        ];
        for state in states {
            assert_eq!(job_state(&state).word(), state.word());
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
