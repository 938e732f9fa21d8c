//! Bodies that end with their token.

use http_body::Body as _;

use super::*;

#[tokio::test]
async fn a_stream_breaks_off_at_its_next_message_once_its_token_is_over() {
    let (doors, _) = with_roles();
    let issued = doors.tokens.get(3).expect("a token");
    let pieces = || {
        let all = ["one", "two", "three"].map(Ok::<_, std::convert::Infallible>);
        Body::from_stream(tokio_stream::iter(all))
    };
    let next = async |body: &mut Ending| {
        std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context)).await
    };
    let mut answer = Ending::new(pieces(), issued.clone(), Way::Call);
    let mut sent = Ending::new(pieces(), issued.clone(), Way::Request);
    let mut held_back = Ending::new(Body::empty(), issued.clone(), Way::Request);
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
    let mut late = Ending::new(pieces(), issued, Way::Call);
    let first = next(&mut late).await.expect("a frame").expect("an end");
    assert!(first.is_trailers());
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
        let mut body = Ending::new(silent(), issued.clone(), Way::Call);
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
