//! Why a training process was never started, or why its result was not delivered.

use std::path::{Path, PathBuf};

use qlora_client::TransferError;
use qlora_codes::Code;
use qlora_proto::Outcome;

use super::exit_status::ExitStatus;
use super::stopping::Stopping;
use crate::models;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("the configuration cannot be read: {0}")]
    Config(#[from] qlora_config::ConfigErrors),
    #[error(transparent)]
    Model(#[from] models::ModelError),
    /// The model cannot give what the configuration asks for.
    #[error("{}; {}", .0.message, .0.help)]
    Misfit(qlora_planner::Misfit),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    /// Its bytes are those that were submitted, so another try finds the same.
    #[error(
        "the {name} that was submitted cannot be unpacked: it is no tar archive of plain files and folders"
    )]
    Archive { name: String },
    #[error("{path}: {source}")]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}", .0.reason)]
    Stopped(Stopping),
    #[error("a part of this program ended by itself, which trying again may mend: {0}")]
    Task(String),
}

impl Fault {
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn outcome(&self) -> Outcome {
        match self {
            Self::Config(_)
            | Self::Misfit(_)
            | Self::Archive { .. }
            | Self::Model(models::ModelError::Unknown { .. }) => Outcome::BadInput,
            Self::Stopped(_) => Outcome::Stopped,
            fault if fault.code() == Some(Code::DiskFull) => Outcome::NoRoom,
            _ => Outcome::Failed,
        }
    }

    /// `qlora-ctl explain CODE` prints its meaning.
    fn code(&self) -> Option<Code> {
        match self {
            Self::Config(errors) => Some(errors.code()),
            Self::Stopped(_) | Self::Task(_) => None,
            Self::Archive { .. } => Some(Code::Adapter),
            Self::Model(fault) => Some(fault.code()),
            Self::Misfit(_) => Some(Code::InvalidValue),
            Self::Transfer(fault) => Some(fault.code()),
            Self::Io { source, .. } => Some(Code::of_file(source)),
        }
    }

    /// How an attempt ended that ended with it.
    pub fn status(&self) -> ExitStatus {
        let resumes = matches!(self, Self::Stopped(Stopping { resumes: true, .. }));
        ExitStatus {
            resumes,
            code: self.code().map(String::from).unwrap_or_default(),
            ..ExitStatus::of(self.outcome(), self.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn every_fault_has_the_code_of_its_cause_and_a_full_disk_has_its_own_wherever_it_is() {
        let full = || std::io::Error::from(ErrorKind::StorageFull);
        let broken = || std::io::Error::from(ErrorKind::PermissionDenied);
        let transfer = |source| {
            Fault::Transfer(TransferError::Io {
                path: "a".into(),
                source,
            })
        };
        let model = |source| {
            Fault::Model(models::ModelError::Io {
                path: "a".into(),
                source,
            })
        };
        let config = qlora_config::ResolvedConfig::from_json("{}").expect_err("no configuration");
        for (fault, outcome, code) in [
            (Fault::io(Path::new("a"))(full()), Outcome::NoRoom, "Q0607"),
            (transfer(full()), Outcome::NoRoom, "Q0607"),
            (model(full()), Outcome::NoRoom, "Q0607"),
            (
                Fault::io(Path::new("a"))(broken()),
                Outcome::Failed,
                "Q0605",
            ),
            (transfer(broken()), Outcome::Failed, "Q0605"),
            (model(broken()), Outcome::Failed, "Q0605"),
            (
                Fault::Transfer(TransferError::Refused("no".into())),
                Outcome::Failed,
                "Q0403",
            ),
            (Fault::Config(config), Outcome::BadInput, "Q0102"),
            (
                Fault::Stopped(Stopping::with_another()),
                Outcome::Stopped,
                "",
            ),
            (Fault::Task("a panic".into()), Outcome::Failed, ""),
        ] {
            let status = fault.status();
            assert_eq!(
                (status.outcome, status.code.as_str()),
                (outcome, code),
                "{fault}"
            );
            assert_eq!(status.resumes, outcome == Outcome::Stopped);
        }
    }
}
