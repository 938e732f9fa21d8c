//! What a run of many seeds has to meet: every kind of fault, and what comes of it.

use std::collections::BTreeMap;
use std::fmt;

macro_rules! sights {
    ($($name:ident => $text:literal,)*) => {
        /// Something that a simulation may meet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Sight {
            $($name,)*
        }

        impl Sight {
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }

        impl fmt::Display for Sight {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

sights! {
    WorkerDies => "a worker's machine dies",
    CoordinatorDies => "the coordinator's machine dies",
    UploadTorn => "its death tears an upload",
    WriteLostInCrash => "its death loses a write that was under way",
    WriteKeptInCrash => "its death keeps a write that nobody was told of",
    CutToCoordinator => "messages to the coordinator are lost",
    CutFromCoordinator => "messages from the coordinator are lost",
    CutBoth => "messages of both directions are lost",
    MessagesHeld => "messages wait",
    WorkerPauses => "a worker's machine stands still",
    CoordinatorPauses => "the coordinator's program stands still",
    CoordinatorSleeps => "the coordinator's machine sleeps",
    WallForward => "the wall clock jumps forward",
    WallBack => "the wall clock jumps back",
    WriteRefused => "the disk is full",
    WriteSlow => "a write takes seconds",
    WriteLostInDoubt => "a write in doubt is lost",
    WriteKeptInDoubt => "a write in doubt is kept",
    FolderCopied => "a state folder is copied",
    FolderTaken => "a stranger has what another's attempt left",
    CopyDies => "the machine with a copy dies",
    AnswerLost => "the answer to a synchronization is lost",
    CallRepeated => "a call arrives twice",
    CommitRepeated => "the commit before the last arrives again",
    SuccessClaimed => "a success is claimed without its result",
    KeyRepeated => "a submission by the same key is told of the same job",
    Retried => "a retry is taken",
    ComesAfter => "a job that comes after others is taken",
    TurnedAway => "a job that comes after one that failed is turned away",
    TrainsAnew => "a child begins at step 0",
    TrainsOn => "a child goes on from a checkpoint",
    Done => "trained to the end",
    Fails => "training fails",
    ToStop => "asked to stop",
    ToStopAtOnce => "asked to stop at once",
    LeaseOver => "the lease is over",
    ReportsRefused => "reports are refused",
    WorkerUnknown => "a worker has to register again",
    WorkerRefused => "a worker is refused",
    HandedIn => "a worker hands in what it left",
    CheckpointTaken => "a checkpoint is taken",
    ResultTaken => "a result is taken",
    FileRefused => "a checkpoint or a result is refused",
    EndRefused => "the end of an attempt is refused",
    JobPaused => "a job is paused",
    JobSucceeded => "a job succeeds",
    JobFailed => "a job fails",
    JobCancelled => "a job is cancelled",
}

/// How often each was met.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<Sight, u64>);

impl Tally {
    pub fn saw(&mut self, sight: Sight) {
        *self.0.entry(sight).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (sight, times) in &other.0 {
            *self.0.entry(*sight).or_default() += times;
        }
    }

    /// Those that were never met.
    pub fn missing(&self) -> Vec<Sight> {
        let all = Sight::ALL.iter().copied();
        all.filter(|sight| !self.0.contains_key(sight)).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for sight in Sight::ALL {
            let times = self.0.get(sight).copied().unwrap_or_default();
            writeln!(f, "{times:9}  {sight}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_met_is_counted_and_what_was_not_is_missing() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.saw(Sight::Done);
        other.saw(Sight::Done);
        other.saw(Sight::ToStop);
        one.add(&other);
        let missing = one.missing();
        assert_eq!(missing.len(), Sight::ALL.len() - 2);
        assert!(!missing.contains(&Sight::Done));
        assert!(one.to_string().contains("        2  trained to the end"));
    }
}
