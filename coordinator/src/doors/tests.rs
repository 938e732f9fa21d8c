//! What the doors let in and what they refuse.

mod ending;
mod page;

use axum::http::{HeaderValue, StatusCode, Version};
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
    let doors = doors();
    let pair = page::begins(&doors, Holder::Local);
    let right_cookie = ("cookie", pair.as_str());
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
            doors.check(&request(Version::HTTP_2, "POST", path, &headers), None)
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
        let in_address = format!("{path}?key={SECRET}");
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

    let soon = std::time::Duration::from_millis(7);
    let answer = answer::refuse(&Refusal::TooMany(soon), &call);
    let header = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
    assert_eq!(header("grpc-status"), "8");
    assert_eq!(header("qlora-passes-after-ms"), "8");

    let browser = request(Version::HTTP_11, "GET", "/", &[("accept", "text/html,*/*")]);
    let answer = answer::refuse(&Refusal::TooMany(soon), &browser);
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(answer.headers()["retry-after"], "1");
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
