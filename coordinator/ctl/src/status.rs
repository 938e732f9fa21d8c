//! How a failed call of the coordinator is reported.

use qlora_client::retry::{Verdict, judge, root_cause};
use tonic::{Code as GrpcCode, Status};

use crate::error::{CtlError, Exit};

/// How tonic begins what it says of an answer that is none of gRPC.
const NO_GRPC: &str = "grpc-status header missing";

/// Whether whoever answers is no coordinator: it refuses as a web server does. What passes, such as
/// the fault of a proxy, shows nothing of who stands behind it.
pub fn is_foreign(status: &Status) -> bool {
    let refuses = matches!(
        status.code(),
        GrpcCode::Unimplemented
            | GrpcCode::Unauthenticated
            | GrpcCode::PermissionDenied
            | GrpcCode::Internal
    );
    refuses && status.message().starts_with(NO_GRPC)
}

impl CtlError {
    pub fn from_status(status: &Status, address: &str) -> Self {
        let refused = |help, exit| Self::Refused {
            message: status.message().to_owned(),
            help,
            exit,
        };
        if is_foreign(status) {
            return Self::Unreachable {
                address: address.into(),
                fault: "the server that answers there is not a qlora coordinator".into(),
            };
        }
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
            (_, GrpcCode::Unimplemented) => Self::Refused {
                message: format!(
                    "the server at {address} does not know this call: it is not a qlora coordinator, or one of another version"
                ),
                help: "fix --coordinator, or take the qlora-ctl of the coordinator's version",
                exit: Exit::Refused,
            },
            _ => refused("", Exit::Refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_codes::Code;

    use super::*;

    #[test]
    fn a_server_that_is_no_coordinator_is_said_to_be_none() {
        let mapped = |code, http: u16| {
            let text = format!("grpc-status header missing, mapped from HTTP status code {http}");
            CtlError::from_status(&Status::new(code, text), "a:1")
        };
        for (code, http) in [
            (GrpcCode::Unimplemented, 404),
            (GrpcCode::Unauthenticated, 401),
            (GrpcCode::Internal, 400),
        ] {
            let error = mapped(code, http);
            assert_eq!(error.code(), Code::Unreachable, "{http}");
            assert!(error.to_string().contains("not a qlora coordinator"));
        }
        // A proxy whose coordinator is away.
        let away = mapped(GrpcCode::Unavailable, 502);
        assert!(!away.to_string().contains("not a qlora coordinator"));
        let other = CtlError::from_status(&Status::unimplemented(""), "a:1");
        assert_eq!(other.code(), Code::Refused);
        assert!(other.to_string().contains("does not know this call"));
    }

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

    #[test]
    fn who_calls_a_standby_is_told_whom_to_call() {
        use qlora_proto::{LED_BY, STANDBY};
        let told = format!("{STANDBY}{LED_BY}10.0.0.7:7070");
        let error = CtlError::from_status(&Status::unavailable(told), "a");
        assert!(error.help().contains("the leader's address"));
        // Where nobody is known to lead, there is no address to give.
        let alone = format!("{STANDBY}, and its database does not answer; try again");
        for told in [alone.as_str(), "no"] {
            let other = CtlError::from_status(&Status::unavailable(told), "a");
            assert!(other.help().starts_with("try again"), "{told}");
        }
    }
}
