//! Strings of the wire that take a few values, as types. The wire keeps the strings, which older
//! programs read. Programs take the strings from here. The engine does not import this crate and
//! has its own words for artifacts and the journal; tests of the coordinator hold both together.

use std::fmt;

use crate::{JobArtifact, JobFile, MetricPoint};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$note])* $variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As it stands on the wire.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }

            /// What `word` of the wire says; none where this version does not know it.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|one| one.word() == word)
            }

            /// All words, for a message: `a, b or c`.
            pub fn words() -> String {
                let all: Vec<&str> = Self::ALL.iter().map(|one| one.word()).collect();
                match all.split_last() {
                    Some((last, [])) => (*last).to_owned(),
                    Some((last, others)) => format!("{} or {last}", others.join(", ")),
                    None => String::new(),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }

        impl From<$name> for String {
            fn from(one: $name) -> Self {
                one.word().to_owned()
            }
        }
    };
}

names! {
    /// What [`JobArtifact::kind`] says.
    ArtifactKind {
        Checkpoint = "checkpoint",
        Adapter = "adapter",
    }
}

names! {
    /// What [`JobFile::role`] says.
    FileRole {
        Train = "train",
        Eval = "eval",
        Adapter = "adapter",
    }
}

names! {
    /// What [`crate::LogLine::level`] says.
    LogLevel {
        Info = "info",
        Warn = "warn",
        Error = "error",
    }
}

names! {
    /// What [`crate::Event::kind`] says.
    EventKind {
        Submitted = "submitted",
        Started = "started",
        /// A checkpoint or an adapter was committed.
        Saved = "saved",
        /// The attempt was asked to stop.
        Stopping = "stopping",
        Requeued = "requeued",
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        Paused = "paused",
        Resumed = "resumed",
        /// The store cannot read the job's record.
        Unreadable = "unreadable",
        Registered = "registered",
        Lost = "lost",
        Removed = "removed",
        /// Checkpoints and adapters, or metrics and log, of an ended job were deleted.
        Pruned = "pruned",
        /// The worker gets no jobs because jobs fail on it that succeed elsewhere.
        SetAside = "set aside",
        /// An operator has drained the worker.
        Drained = "drained",
        Undrained = "undrained",
        /// A configuration has a new revision.
        Put = "put",
        /// A token was made.
        Created = "created",
        /// A token was ended.
        Revoked = "revoked",
    }
}

names! {
    /// What a token is for: [`crate::TokenInfo::role`].
    Role {
        /// May do everything.
        Admin = "admin",
        /// Submits jobs and acts on them, and reads everything.
        Submitter = "submitter",
        /// Reads everything.
        Viewer = "viewer",
        /// Takes jobs, and fetches and uploads what they need.
        Worker = "worker",
    }
}

names! {
    /// A key of [`MetricPoint::values`].
    Metric {
        Loss = "loss",
        GradNorm = "grad_norm",
        LearningRate = "learning_rate",
        TokensPerSecond = "tokens_per_second",
        /// 1 where the step changed nothing because a value was not finite, else 0.
        Skipped = "skipped",
        EvalLoss = "eval_loss",
        EvalPerplexity = "eval_perplexity",
    }
}

impl JobArtifact {
    pub fn is(&self, kind: ArtifactKind) -> bool {
        self.kind == kind.word()
    }
}

impl JobFile {
    pub fn is(&self, role: FileRole) -> bool {
        self.role == role.word()
    }
}

impl MetricPoint {
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.values.get(metric.word()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_wire_stays_as_older_programs_know_it() {
        assert_eq!(ArtifactKind::words(), "checkpoint or adapter");
        assert_eq!(FileRole::words(), "train, eval or adapter");
        assert_eq!(LogLevel::words(), "info, warn or error");
        assert_eq!(Role::words(), "admin, submitter, viewer or worker");
        assert_eq!(
            Metric::words(),
            "loss, grad_norm, learning_rate, tokens_per_second, skipped, eval_loss or eval_perplexity"
        );
        assert_eq!(
            EventKind::words(),
            "submitted, started, saved, stopping, requeued, succeeded, failed, cancelled, paused, resumed, unreadable, registered, lost, removed, pruned, set aside, drained, undrained, put, created or revoked"
        );
    }

    #[test]
    fn every_word_is_read_back_and_no_other_is_taken() {
        for kind in ArtifactKind::ALL {
            assert_eq!(ArtifactKind::parse(kind.word()), Some(*kind));
        }
        for kind in EventKind::ALL {
            assert_eq!(EventKind::parse(kind.word()), Some(*kind));
        }
        for metric in Metric::ALL {
            assert_eq!(Metric::parse(&String::from(*metric)), Some(*metric));
        }
        for other in ["", "Adapter", "adapters", "train"] {
            assert_eq!(ArtifactKind::parse(other), None, "{other}");
        }
    }
}
