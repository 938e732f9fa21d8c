//! How a failed call of the coordinator is reported.

use qlora_client::retry::{Verdict, judge, root_cause};
use tonic::{Code as GrpcCode, Status};

use crate::error::{CtlError, Exit};

impl CtlError {
    pub fn from_status(status: &Status, address: &str) -> Self {
        let refused = |help, exit| Self::Refused {
            message: status.message().to_owned(),
            help,
            exit,
        };
        // What the transport itself says has a cause; a status without one was sent by the
        // coordinator.
        let answered = std::error::Error::source(status).is_none() && !status.message().is_empty();
        let by_transport = matches!(
            status.code(),
            GrpcCode::Unknown | GrpcCode::DeadlineExceeded | GrpcCode::Cancelled
        );
        match (judge(status), status.code()) {
            (Verdict::Again, _) if answered && !by_transport => Self::Trouble {
                address: address.into(),
                message: status.message().to_owned(),
            },
            (Verdict::Again, _) => Self::Unreachable {
                address: address.into(),
                fault: root_cause(status),
            },
            (_, GrpcCode::NotFound) => refused(
                "qlora-ctl jobs, workers and config list show what there is",
                Exit::Refused,
            ),
            (_, GrpcCode::InvalidArgument) => {
                refused("fix what the message names and try again", Exit::BadInput)
            }
            _ => refused("", Exit::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_codes::Code;

    use super::*;

    #[test]
    fn trouble_of_the_coordinator_is_told_from_one_that_is_away_and_from_a_refusal() {
        let said = |code| Status::new(code, "no");
        for (status, code) in [
            (said(GrpcCode::Unavailable), Code::CoordinatorTrouble),
            (said(GrpcCode::ResourceExhausted), Code::CoordinatorTrouble),
            (said(GrpcCode::DataLoss), Code::CoordinatorTrouble),
            (said(GrpcCode::Internal), Code::CoordinatorTrouble),
            (said(GrpcCode::Unknown), Code::Unreachable),
            (said(GrpcCode::DeadlineExceeded), Code::Unreachable),
            (Status::unavailable(""), Code::Unreachable),
            (
                Status::from_error(Box::new(std::io::Error::other("broke"))),
                Code::Unreachable,
            ),
            (said(GrpcCode::NotFound), Code::Refused),
            (said(GrpcCode::InvalidArgument), Code::Refused),
            (said(GrpcCode::AlreadyExists), Code::Refused),
        ] {
            let error = CtlError::from_status(&status, "a");
            assert_eq!(error.code(), code, "{status:?}");
        }
    }
}
