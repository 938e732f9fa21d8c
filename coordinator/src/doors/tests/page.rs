//! The page: the key that opens it, its form, and the sessions of browsers.

use axum::http::HeaderMap;

use super::*;

/// The cookie that a link of `token` gives a browser.
fn enters(doors: &Doors, token: &Token) -> String {
    let holder = doors.tokens.by_token(token.secret()).expect("a holder");
    let path = format!("/?key={}", doors.tokens.link(holder).expect("a link"));
    let opening = request(Version::HTTP_11, "GET", &path, &[]);
    let Ok(Pass::Enter(holder)) = doors.check(&opening, None) else {
        panic!("the link opens nothing");
    };
    begins(doors, holder)
}

pub(super) fn begins(doors: &Doors, holder: Holder) -> String {
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
fn the_page_opens_by_token_by_session_and_once_by_a_link() {
    let doors = doors();
    let link = || doors.tokens.link(Holder::Local).expect("a link");
    let key = link();
    let pair = enters(&doors, &token());
    assert!(!pair.contains(SECRET));
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
        let guess = [
            ("authorization", "Bearer a-guess"),
            ("cookie", "qlora_7070=0"),
        ];
        let guessed = visit(path, &guess);
        assert_eq!(
            guessed,
            Err(Refusal::WrongToken),
            "a guess is one beside a cookie"
        );
        let of_another_port = pair.replace("7070", "7071");
        assert_eq!(
            visit(path, &[("cookie", &of_another_port)]),
            Err(Refusal::NoToken)
        );
        let address = format!("{path}?key={}", link());
        let looked_for = request(Version::HTTP_11, "HEAD", &address, &[]);
        assert_eq!(doors.check(&looked_for, None), Err(Refusal::Link));
        let opened = visit(&address, &[]);
        assert_eq!(opened, Ok(Pass::Enter(Holder::Local)), "{path}");
        assert_eq!(visit(&address, &[]), Err(Refusal::Link), "{path}: twice");
        for wrong in ["wrong", SECRET] {
            let address = format!("{path}?key={wrong}");
            assert_eq!(visit(&address, &[("cookie", &pair)]), Err(Refusal::Link));
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
        .log_in(posted(viewer.secret(), &old), visit, None)
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
    let refused = doors.log_in(posted("wrong", ""), visit, None).await;
    assert_eq!(refused.expect_err("a refusal"), Refusal::WrongToken);
    let too_large = posted(&"x".repeat(5000), "");
    let answer = doors.log_in(too_large, visit, None).await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    // A worker sees no page.
    let refused = doors
        .log_in(posted(given[3].1.secret(), ""), visit, None)
        .await;
    assert!(matches!(refused, Err(Refusal::Role { .. })));
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

#[test]
fn the_key_leaves_the_address_and_leads_to_no_other_host() {
    for (path, wanted) in [("/", "/"), ("/j/7", "/j/7"), ("//evil.example", "/")] {
        let response = headers::enter(pass::cookie("qlora_7070", "id", false), path);
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        assert_eq!(response.headers()["location"], wanted);
        assert_eq!(response.headers()["referrer-policy"], "same-origin");
    }
}

#[test]
fn the_cookie_of_an_encrypted_page_is_sent_under_tls_only() {
    let cookie = |is_encrypted| pass::cookie("qlora_7070", "id", is_encrypted);
    assert!(cookie(true).ends_with("; Secure"));
    assert!(!cookie(false).contains("Secure"));
}
