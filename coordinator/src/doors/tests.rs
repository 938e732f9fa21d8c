use axum::http::{HeaderMap, HeaderValue, StatusCode, Version};
use qlora_access::{Fingerprint, Token};
use qlora_proto::Role;
use qlora_store::TokenRecord;

use super::*;
use crate::tokens::Holder;

const SECRET: &str = "a-secret-of-some-length";

fn doors() -> Arc<Doors> {
    let hosts = Hosts::new(
        "127.0.0.1:7070".parse().expect("an address"),
        vec!["head".into()],
        &[],
    );
    Doors::new(hosts, Tokens::new(token(), &[]), Arc::default(), false)
}

fn token() -> Token {
    Token::parse(SECRET, "test").expect("a token")
}

fn request(version: Version, method: &str, path: &str, headers: &[(&str, &str)]) -> Request {
    let builder = Request::builder()
        .version(version)
        .method(method)
        .uri(path)
        .header("host", "localhost:7070");
    let builder = headers.iter().fold(builder, |builder, (name, value)| {
        builder.header(*name, *value)
    });
    builder.body(Body::empty()).expect("a request")
}

fn check(
    version: Version,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Pass, Refusal> {
    doors().check(&request(version, method, path, headers), None)
}

fn page(path: &str, headers: &[(&str, &str)]) -> Result<Pass, Refusal> {
    check(Version::HTTP_11, "GET", path, headers)
}

#[test]
fn a_grpc_call_needs_http_2_post_its_content_type_and_the_token_in_its_header() {
    let bearer = ("authorization", "Bearer a-secret-of-some-length");
    let call = |version, method, kind| {
        check(
            version,
            method,
            "/qlora.v1.JobService/Submit",
            &[("content-type", kind), bearer],
        )
    };
    for kind in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;charset=utf-8",
    ] {
        assert_eq!(
            call(Version::HTTP_2, "POST", kind),
            Ok(Pass::Known(Holder::Local)),
            "{kind}"
        );
    }
    for kind in [
        "text/plain",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/json",
        "",
        "application/grpcx",
    ] {
        assert_eq!(
            call(Version::HTTP_2, "POST", kind),
            Err(Refusal::ContentType),
            "{kind}"
        );
    }
    for version in [Version::HTTP_11, Version::HTTP_10] {
        assert_eq!(
            call(version, "POST", "application/grpc"),
            Err(Refusal::Version(version))
        );
        assert_eq!(
            call(version, "POST", "text/plain"),
            Err(Refusal::Version(version))
        );
    }
    for method in ["GET", "PUT", "OPTIONS"] {
        let refusal = call(Version::HTTP_2, method, "application/grpc").expect_err("a refusal");
        assert!(matches!(refusal, Refusal::Method(_)), "{method}");
    }
    let two = [
        ("content-type", "application/grpc"),
        ("content-type", "text/plain"),
        bearer,
    ];
    let refused = check(Version::HTTP_2, "POST", "/qlora.v1.JobService/Submit", &two);
    assert_eq!(refused, Err(Refusal::ContentType));
}

#[test]
fn every_method_of_every_service_needs_the_token_but_health() {
    let kind = ("content-type", "application/grpc");
    let key = format!(
        "qlora_{}={}",
        token().page_key().get(..8).expect("a label"),
        token().page_key()
    );
    let right_cookie = ("cookie", key.as_str());
    for path in [
        "/qlora.v1.JobService/ListJobs",
        "/qlora.v1.WorkerService/Register",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.healthy.v1.Health/Check",
        "/some.other/Method",
        "//qlora.v1.JobService/ListJobs",
    ] {
        // What is not there is told to nobody without a token.
        let is_there = path.starts_with("/qlora.") || path.contains("reflection");
        let call = |more: &[(&str, &str)]| {
            let headers: Vec<_> = [kind].into_iter().chain(more.iter().copied()).collect();
            check(Version::HTTP_2, "POST", path, &headers)
        };
        assert_eq!(call(&[]), Err(Refusal::NoToken), "{path}");
        assert_eq!(
            call(&[right_cookie]),
            Err(Refusal::NoToken),
            "{path}: a cookie opens the page only"
        );
        for wrong in [
            "Bearer wrong",
            "Bearer ",
            "Bearer a-secret-of-some-lengtH",
            "Bearer a-secret-of-some-length x",
        ] {
            assert_eq!(
                call(&[("authorization", wrong)]),
                Err(Refusal::WrongToken),
                "{path} {wrong}"
            );
        }
        assert_eq!(
            call(&[("authorization", SECRET)]),
            Err(Refusal::NoToken),
            "{path}"
        );
        let wanted = if is_there {
            Ok(Pass::Known(Holder::Local))
        } else {
            Err(Refusal::Absent(path.into()))
        };
        assert_eq!(
            call(&[("authorization", "bearer a-secret-of-some-length")]),
            wanted,
            "{path}"
        );
        let in_address = format!("{path}?token={SECRET}");
        assert_eq!(
            check(Version::HTTP_2, "POST", &in_address, &[kind]),
            Err(Refusal::NoToken),
            "{path}"
        );
    }
    let health = check(
        Version::HTTP_2,
        "POST",
        "/grpc.health.v1.Health/Check",
        &[kind],
    );
    assert_eq!(health, Ok(Pass::Open));
}

#[test]
fn methods_are_told_from_pages_by_their_path() {
    for path in [
        "/qlora.v1.JobService/Submit",
        "//qlora.v1.JobService/Submit",
        "/a.b/",
        "/a.b/c/d",
    ] {
        assert!(form::is_grpc_path(path), "{path}");
    }
    for path in [
        "/",
        "",
        "/j/1",
        "/j/1.5",
        "/metrics",
        "/favicon.ico",
        "/qlora.v1.JobService",
        "/j/qlora.v1.JobService/Submit",
    ] {
        assert!(!form::is_grpc_path(path), "{path}");
    }
}

#[test]
fn health_is_open_to_every_host_but_not_to_pages_of_other_origins() {
    let foreign = [("x-forwarded-host", "evil.example")];
    assert_eq!(page("/healthz", &foreign), Ok(Pass::Open));
    let named = Request::builder()
        .uri("/healthz")
        .header("host", "10.1.2.3")
        .body(Body::empty())
        .expect("a request");
    assert_eq!(doors().check(&named, None), Ok(Pass::Open));
    assert!(matches!(
        page("/healthz", &[("origin", "http://evil.example")]),
        Err(Refusal::Origin(_))
    ));
    assert!(page("/healthz/", &[]).is_err() && page("/healthzz", &[]).is_err());
}

/// The cookie that the page's key of `token` gives a browser.
fn enters(doors: &Doors, token: &Token) -> String {
    let path = format!("/?token={}", token.page_key());
    let opening = request(Version::HTTP_11, "GET", &path, &[]);
    let Ok(Pass::Enter(holder)) = doors.check(&opening, None) else {
        panic!("the key opens nothing");
    };
    begins(doors, holder)
}

fn begins(doors: &Doors, holder: Holder) -> String {
    let visit = Visit {
        from: None,
        is_encrypted: false,
    };
    let answer = doors.logins.begin(holder, &HeaderMap::new(), visit, "/");
    let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    cookie.split(';').next().expect("a pair").to_owned()
}

#[test]
fn the_page_opens_by_token_by_session_and_once_by_a_key_in_the_address() {
    let doors = doors();
    let key = token().page_key();
    let pair = enters(&doors, &token());
    assert!(!pair.contains(SECRET) && !pair.contains(&key[..8]));
    let visit = |path: &str, headers: &[(&str, &str)]| {
        doors.check(&request(Version::HTTP_11, "GET", path, headers), None)
    };
    let who = |pass: Result<Pass, Refusal>| pass.map(|pass| pass.holder().cloned());
    let local = || Ok(Some(Holder::Local));
    for path in ["/", "/j/1", "/metrics", "/sessions"] {
        assert_eq!(visit(path, &[]), Err(Refusal::NoToken), "{path}");
        let bearer = [("authorization", "Bearer a-secret-of-some-length")];
        assert_eq!(who(visit(path, &bearer)), local(), "{path}");
        // One that has ended stands in nobody's way, wherever it stands.
        for cookies in [
            pair.clone(),
            format!("a=b; {pair}; c=d"),
            format!("qlora_7070=0; {pair}"),
            format!("{pair}; qlora_7070=0"),
        ] {
            assert_eq!(
                who(visit(path, &[("cookie", &cookies)])),
                local(),
                "{path} {cookies}"
            );
        }
        for wrong in ["0", SECRET, key.as_str()] {
            let cookie = format!("qlora_7070={wrong}");
            assert_eq!(
                visit(path, &[("cookie", &cookie)]),
                Err(Refusal::NoSession),
                "{path}"
            );
        }
        let of_another_port = pair.replace("7070", "7071");
        assert_eq!(
            visit(path, &[("cookie", &of_another_port)]),
            Err(Refusal::NoToken)
        );
        let address = format!("{path}?token={key}");
        assert_eq!(
            visit(&address, &[]),
            Ok(Pass::Enter(Holder::Local)),
            "{path}"
        );
        for wrong in ["wrong", SECRET] {
            let address = format!("{path}?token={wrong}");
            assert_eq!(
                visit(&address, &[("cookie", &pair)]),
                Err(Refusal::WrongToken)
            );
        }
    }
    let post = |headers: &[(&str, &str)]| {
        let headers = [&[("cookie", pair.as_str())], headers].concat();
        doors.check(
            &request(Version::HTTP_11, "POST", "/j/1/cancel", &headers),
            None,
        )
    };
    // Nothing says that our own page sends it.
    assert_eq!(post(&[]), Err(Refusal::CookieAlone));
    assert_eq!(
        post(&[("sec-fetch-site", "none")]),
        Err(Refusal::CookieAlone)
    );
    for from_ours in [
        ("origin", "http://localhost:7070"),
        ("sec-fetch-site", "same-origin"),
    ] {
        assert_eq!(who(post(&[from_ours])), local());
    }
    let foreign = post(&[("origin", "http://evil.example")]);
    assert!(matches!(foreign, Err(Refusal::Origin(_))));
}

#[tokio::test]
async fn the_form_of_the_page_takes_a_token_and_gives_a_session_in_place_of_the_last() {
    let (doors, given) = with_roles();
    let posted = |token: &str, cookie: &str| {
        Request::builder()
            .method("POST")
            .uri("/login")
            .header("host", "localhost:7070")
            .header("origin", "http://localhost:7070")
            .header("content-type", "application/x-www-form-urlencoded")
            .header("cookie", cookie)
            .body(Body::from(format!("token={token}")))
            .expect("a request")
    };
    let visit = Visit {
        from: None,
        is_encrypted: true,
    };
    assert_eq!(doors.check(&posted("x", ""), None), Ok(Pass::LogIn));
    let foreign = request(Version::HTTP_11, "POST", "/login", &[]);
    assert!(matches!(
        doors.check(&foreign, None),
        Err(Refusal::Origin(_))
    ));
    let (_, viewer) = &given[2];
    let old = enters(&doors, viewer);
    let opens = |pair: &str| {
        let asked = request(Version::HTTP_11, "GET", "/", &[("cookie", pair)]);
        doors.check(&asked, None)
    };
    assert!(opens(&old).is_ok());
    let answer = doors
        .logins
        .log_in(posted(viewer.secret(), &old), visit)
        .await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let cookie = answer.headers()["set-cookie"].to_str().expect("a cookie");
    assert!(cookie.ends_with("; Secure") && !cookie.contains(viewer.secret()));
    assert!(opens(cookie.split(';').next().expect("a pair")).is_ok());
    assert_eq!(
        opens(&old),
        Err(Refusal::NoSession),
        "the old session goes on"
    );
    let refused = doors.logins.log_in(posted("wrong", ""), visit).await;
    assert_eq!(refused.expect_err("a refusal"), Refusal::WrongToken);
    // A worker sees no page.
    let refused = doors
        .logins
        .log_in(posted(given[3].1.secret(), ""), visit)
        .await;
    assert!(matches!(refused, Err(Refusal::Role { .. })));
}

/// Doors with a token of each role, and the tokens by their roles.
fn with_roles() -> (Arc<Doors>, Vec<(Role, Token)>) {
    let given: Vec<_> = Role::ALL
        .iter()
        .map(|role| (*role, Token::issue().expect("a token")))
        .collect();
    let records: Vec<_> = (1..)
        .zip(&given)
        .map(|(id, (role, token))| TokenRecord {
            id,
            name: String::new(),
            role: (*role).into(),
            hash: Fingerprint::of(token.secret()).hex(),
            page_hash: Fingerprint::of(&token.page_key()).hex(),
            created_unix_ms: 0,
            expires_unix_ms: None,
            revoked_unix_ms: None,
            used_day: None,
        })
        .collect();
    let hosts = Hosts::new("127.0.0.1:7070".parse().expect("an address"), vec![], &[]);
    (
        Doors::new(hosts, Tokens::new(token(), &records), Arc::default(), false),
        given,
    )
}

#[test]
fn a_token_opens_what_its_role_may_do_and_nothing_once_it_is_over() {
    let (doors, given) = with_roles();
    let call = |path: &str, token: &Token| {
        let bearer = format!("Bearer {}", token.secret());
        let headers = [
            ("content-type", "application/grpc"),
            ("authorization", &bearer),
        ];
        doors.check(&request(Version::HTTP_2, "POST", path, &headers), None)
    };
    for (path, wanted) in [
        ("/qlora.v1.JobService/Submit", &["admin", "submitter"][..]),
        (
            "/qlora.v1.JobService/Watch",
            &["admin", "submitter", "viewer"],
        ),
        ("/qlora.v1.WorkerService/Register", &["admin", "worker"]),
        ("/qlora.v1.TokenService/CreateToken", &["admin"]),
    ] {
        for (role, token) in &given {
            let answer = call(path, token);
            assert_eq!(
                answer.is_ok(),
                wanted.contains(&role.word()),
                "{path} {role}"
            );
            if let Err(refusal) = answer {
                assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
                assert!(refusal.to_string().contains(wanted.last().expect("a role")));
            }
        }
    }
    let (_, viewer) = &given[2];
    doors.tokens.get(3).expect("a token").revoke(1);
    let over = call("/qlora.v1.JobService/ListJobs", viewer).expect_err("a refusal");
    assert_eq!(
        (&over, over.code()),
        (&Refusal::Revoked, tonic::Code::Unauthenticated)
    );
    assert!(over.to_string().starts_with("the token was revoked; "));
}

#[test]
fn the_page_of_a_viewer_takes_no_act_by_its_key_either() {
    let (doors, given) = with_roles();
    let visit = |method: &str, path: &str, cookie: &str| {
        let headers = [("cookie", cookie), ("sec-fetch-site", "same-origin")];
        doors.check(&request(Version::HTTP_11, method, path, &headers), None)
    };
    for (role, token) in &given {
        let reads = *role != Role::Worker;
        let acts = matches!(role, Role::Admin | Role::Submitter);
        let cookie = enters(&doors, token);
        assert_eq!(visit("GET", "/j/1", &cookie).is_ok(), reads, "{role}");
        assert_eq!(
            visit("POST", "/j/1/cancel", &cookie).is_ok(),
            acts,
            "{role}"
        );
    }
    let cookie = enters(&doors, &given[2].1);
    doors.tokens.get(3).expect("a token").revoke(1);
    assert_eq!(visit("GET", "/", &cookie), Err(Refusal::Revoked));
}

#[tokio::test]
async fn a_stream_breaks_off_at_its_next_message_once_its_token_is_over() {
    use http_body::Body as _;
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
    use http_body::Body as _;
    let silent = || Body::from_stream(tokio_stream::pending::<Result<&str, std::io::Error>>());
    let record = |expires_unix_ms| TokenRecord {
        id: 1,
        name: String::new(),
        role: Role::Viewer.into(),
        hash: Fingerprint::of("a").hex(),
        page_hash: Fingerprint::of("b").hex(),
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

#[test]
fn the_key_leaves_the_address_and_leads_to_no_other_host() {
    for (path, wanted) in [("/", "/"), ("/j/7", "/j/7"), ("//evil.example", "/")] {
        let response = headers::enter(pass::cookie("qlora_7070", "id", false), path);
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()["location"], wanted);
        assert_eq!(response.headers()["referrer-policy"], "same-origin");
    }
}

#[tokio::test]
async fn a_refusal_speaks_to_who_asked_and_names_the_way_out() {
    let bytes = |response: Response| async {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20)
            .await
            .expect("a body");
        String::from_utf8(bytes.to_vec()).expect("text")
    };
    let call = request(
        Version::HTTP_2,
        "POST",
        "/qlora.v1.JobService/Submit",
        &[("content-type", "application/grpc")],
    );
    let answer = answer::refuse(&Refusal::WrongToken, &call);
    assert_eq!(
        (answer.status(), &answer.headers()["grpc-status"]),
        (StatusCode::OK, &HeaderValue::from_static("16"))
    );
    let answer = answer::refuse(&Refusal::Host("evil.example".into()), &call);
    assert_eq!(answer.headers()["grpc-status"], "7");

    let browser = request(Version::HTTP_11, "GET", "/", &[("accept", "text/html,*/*")]);
    let answer = answer::refuse(&Refusal::NoToken, &browser);
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert!(bytes(answer).await.contains("qlora-ctl page"));

    let program = request(Version::HTTP_11, "GET", "/metrics", &[]);
    let answer = answer::refuse(&Refusal::NoToken, &program);
    assert_eq!(
        (answer.status(), &answer.headers()["www-authenticate"]),
        (
            StatusCode::UNAUTHORIZED,
            &HeaderValue::from_static("Bearer")
        )
    );
    let text = bytes(answer).await;
    assert!(
        text.contains("--token-file") && text.contains("Authorization: Bearer TOKEN"),
        "{text}"
    );
    let answer = answer::refuse(&Refusal::CookieAlone, &program);
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let text = bytes(answer).await;
    assert!(
        text.contains("Authorization: Bearer TOKEN") && text.contains("`Origin`"),
        "{text}"
    );

    let text = bytes(answer::refuse(
        &Refusal::Host("gpu.example.com:7070\u{1b}[31m".into()),
        &program,
    ))
    .await;
    assert!(
        text.contains("--allow-host gpu.example.com") && !text.contains('\u{1b}'),
        "{text}"
    );
    assert_eq!(
        Refusal::Host("gpu:7070".into()).status(),
        StatusCode::MISDIRECTED_REQUEST
    );
    assert!(
        Refusal::Host("gpu:7070".into())
            .to_string()
            .ends_with("--allow-host gpu")
    );
}

#[test]
fn where_workers_are_asked_for_a_certificate_their_token_alone_opens_nothing() {
    let hosts = Hosts::new("127.0.0.1:7070".parse().expect("an address"), vec![], &[]);
    let doors = Doors::new(hosts, Tokens::new(token(), &[]), Arc::default(), true);
    let call = |path: &str| {
        let headers = [
            ("content-type", "application/grpc"),
            ("authorization", "Bearer a-secret-of-some-length"),
        ];
        doors.check(&request(Version::HTTP_2, "POST", path, &headers), None)
    };
    let refused = call("/qlora.v1.WorkerService/Register").expect_err("a refusal");
    assert_eq!(refused, Refusal::NoCertificate);
    assert!(refused.to_string().contains("qlora-coordinator certify"));
    // A person calls it too, with the same token.
    assert!(call("/qlora.v1.WorkerService/ListWorkers").is_ok());
    assert!(call("/qlora.v1.JobService/Submit").is_ok());
}

#[test]
fn the_cookie_of_an_encrypted_page_is_sent_under_tls_only() {
    let cookie = |is_encrypted| pass::cookie("qlora_7070", "id", is_encrypted);
    assert!(cookie(true).ends_with("; Secure"));
    assert!(!cookie(false).contains("Secure"));
}
