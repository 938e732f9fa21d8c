//! Fuzz target: the messages of every method of every service.
//!
//! Messages are made of the protocol's own descriptors, so that a new field and a new method are
//! tried without a change here. Whatever comes is done, or refused with a status that the protocol
//! knows for it: nothing panics, and nothing is told as a fault of the coordinator.

mod choices;
mod coordinator;
mod descriptors;
mod panics;

use proptest::collection::vec;
use proptest::prelude::*;
use qlora_fuzz::cases;
use qlora_proto::ListJobsRequest;

use self::choices::Choices;
use self::coordinator::{Coordinator, LIST_JOBS, frame};
use self::descriptors::Protocol;

/// Calls of one input at the most.
const MOST_CALLS: usize = 12;
/// Statuses of an input that is refused; the others say that the coordinator has a fault.
const OF_INPUT: [tonic::Code; 9] = [
    tonic::Code::Ok,
    tonic::Code::InvalidArgument,
    tonic::Code::NotFound,
    tonic::Code::AlreadyExists,
    tonic::Code::PermissionDenied,
    tonic::Code::FailedPrecondition,
    tonic::Code::Aborted,
    tonic::Code::OutOfRange,
    tonic::Code::Unauthenticated,
];

#[test]
fn fuzz_messages() {
    let protocol = Protocol::read();
    panics::count();
    let calls = vec(vec(any::<u8>(), 0..400), 1..=MOST_CALLS);
    cases("messages", &calls, |calls: &Vec<Vec<u8>>| {
        let before = panics::counted();
        // Of its own, so that no task of one input outlives it.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(all(&protocol, calls));
        assert_eq!(panics::counted(), before, "a task panicked");
    });
}

/// Makes `calls` of one coordinator, which answers afterward.
async fn all(protocol: &Protocol, calls: &[Vec<u8>]) {
    let coordinator = Coordinator::start().await;
    for bytes in calls {
        one(
            protocol,
            &coordinator,
            &mut Choices::new(bytes, &coordinator),
        )
        .await;
    }
    let jobs = coordinator
        .ask(LIST_JOBS, &ListJobsRequest::default())
        .await;
    assert!(
        jobs.status
            .is_some_and(|status| status.code() == tonic::Code::Ok),
        "it still answers"
    );
}

async fn one(protocol: &Protocol, coordinator: &Coordinator, choices: &mut Choices<'_>) {
    let method = protocol.method(choices);
    let is_noise = choices.one_in(16);
    let mut body = Vec::new();
    for _ in 0..method.messages(choices) {
        let message = if is_noise {
            choices.rest()
        } else {
            protocol.message(&method.input, choices)
        };
        body.extend(frame(&message));
    }
    // One that is held open has not been refused.
    let Some(status) = coordinator.call(&method.path, body).await.status else {
        return;
    };
    let (code, text) = (status.code(), status.message());
    // As gRPC wants it of bytes that are no message.
    let is_no_message = is_noise && code == tonic::Code::Internal;
    assert!(
        is_no_message || OF_INPUT.contains(&code),
        "{}: {code:?}: {text}",
        method.path
    );
    assert_eq!(
        text.is_empty(),
        code == tonic::Code::Ok,
        "{}: {code:?}: {text}",
        method.path
    );
}
