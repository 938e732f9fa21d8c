//! Bodies that end with their token.

use std::task::{Context, Waker};

use http_body::Body as _;

use super::*;

#[tokio::test]
async fn a_stream_breaks_off_at_its_next_message_once_its_token_is_over() {
    let (doors, _) = with_roles();
    let issued = doors.tokens.get(3).expect("a token");
    let term = || Term::of(issued.clone());
    let pieces = || {
        let all = ["one", "two", "three"].map(Ok::<_, std::convert::Infallible>);
        Body::from_stream(tokio_stream::iter(all))
    };
    let next = async |body: &mut Ending| {
        std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context)).await
    };
    let mut answer = Ending::new(pieces(), term(), Way::Call);
    let mut sent = Ending::new(pieces(), term(), Way::Request);
    let mut held_back = Ending::new(Body::empty(), term(), Way::Request);
    for body in [&mut answer, &mut sent] {
        for _ in 0..2 {
            let frame = next(&mut *body).await.expect("a frame").expect("a piece");
            assert!(frame.is_data());
        }
    }
    issued.revoke(1);
    let last = next(&mut answer).await.expect("a frame").expect("an end");
    let trailers = last.into_trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "16");
    assert!(next(&mut answer).await.is_none() && answer.is_end_stream());
    let fault = next(&mut sent)
        .await
        .expect("a frame")
        .expect_err("a fault");
    assert_eq!(
        tonic::Status::from_error(Box::new(fault)).code(),
        tonic::Code::Unauthenticated
    );
    // A request whose end was held back is not carried out any more.
    assert!(!held_back.is_end_stream());
    assert!(next(&mut held_back).await.expect("a frame").is_err());
    assert!(next(&mut held_back).await.is_none());
    // An answer that had not begun does not begin.
    let mut late = Ending::new(pieces(), term(), Way::Call);
    let first = next(&mut late).await.expect("a frame").expect("an end");
    assert!(first.is_trailers());
}

/// Of a call that has not been sent whole, before its answer begins and after.
#[tokio::test]
async fn a_call_waits_once_for_the_end_of_its_token() {
    let (doors, given) = with_roles();
    let (_, token) = given.last().expect("a token");
    let issued = doors.tokens.get(given.len() as u64).expect("a token");
    let silent = || Body::from_stream(tokio_stream::pending::<Result<&str, std::io::Error>>());
    let (answers, answered) = tokio::sync::oneshot::channel::<()>();
    let answered = Arc::new(tokio::sync::Mutex::new(answered));
    let handler = move |request: Request| async move {
        let mut sent = request.into_body();
        let read =
            std::future::poll_fn(|context| std::pin::Pin::new(&mut sent).poll_frame(context));
        tokio::select! {
            biased;
            _ = read => panic!("it has ended"),
            _ = async { (&mut *answered.lock().await).await } => {}
        }
        // It is read on while the answer is sent.
        let both =
            tokio_stream::StreamExt::merge(sent.into_data_stream(), silent().into_data_stream());
        Body::from_stream(both)
    };
    const HELD: &str = "/qlora.v1.WorkerService/Synchronize";
    let layer = axum::middleware::from_fn_with_state(doors.clone(), guard);
    let router = axum::Router::new()
        .route(HELD, axum::routing::any(handler))
        .layer(layer);
    let bearer = format!("Bearer {}", token.secret());
    let headers = [
        ("content-type", "application/grpc"),
        ("authorization", &bearer),
    ];
    let request = request(Version::HTTP_2, "POST", HELD, &headers).map(|_| silent());
    let service = hyper_util::service::TowerToHyperService::new(router);
    let mut call = Box::pin(hyper::service::Service::call(&service, request));
    let mut context = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut context).is_pending());
    assert_eq!(issued.awaited(), 1);
    answers.send(()).expect("a call that is held");
    let mut answer = call.await.expect("an answer").into_body();
    assert!(
        std::pin::Pin::new(&mut answer)
            .poll_frame(&mut context)
            .is_pending()
    );
    assert_eq!(issued.awaited(), 1);
    drop(answer);
    assert_eq!(issued.awaited(), 0);
}

#[tokio::test]
async fn a_silent_stream_ends_when_its_token_is_revoked_or_expires() {
    let silent = || Body::from_stream(tokio_stream::pending::<Result<&str, std::io::Error>>());
    let record = |expires_unix_ms| TokenRecord {
        id: 1,
        name: String::new(),
        role: Role::Viewer.into(),
        hash: Fingerprint::of("a").hex(),
        created_unix_ms: 0,
        expires_unix_ms,
        revoked_unix_ms: None,
        used_day: None,
    };
    let soon = crate::clock::now().wall.0 + 50;
    for (expires, revoke) in [(None, true), (Some(soon), false)] {
        let tokens = Tokens::new(token(), &[record(expires)]);
        let issued = tokens.get(1).expect("a token");
        let mut body = Ending::new(silent(), Term::of(issued.clone()), Way::Call);
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let mut begun = Some(begun);
        let waiting = tokio::spawn(async move {
            std::future::poll_fn(move |context| {
                let frame = std::pin::Pin::new(&mut body).poll_frame(context);
                if frame.is_pending()
                    && let Some(begun) = begun.take()
                {
                    let _ = begun.send(());
                }
                frame
            })
            .await
        });
        if revoke {
            has_begun.await.expect("a stream that waits");
            issued.revoke(1);
        }
        let last = waiting.await.expect("a task").expect("a frame");
        let trailers = last.expect("an end").into_trailers().expect("trailers");
        assert_eq!(trailers["grpc-status"], "16");
    }
}
