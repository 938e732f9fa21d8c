use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use qlora_access::PemError;
use tempfile::TempDir;

use super::*;

fn state() -> (TempDir, Folder) {
    let state = tempfile::tempdir().expect("a folder");
    let folder = Folder::of(state.path());
    (state, folder)
}

fn hosts() -> Vec<String> {
    ["localhost", "127.0.0.1", "gpu.example.com"]
        .map(str::to_owned)
        .into()
}

fn find(folder: &Folder) -> Sources {
    let found = Sources::find(Given::default(), folder);
    found.expect("no fault").expect("sources")
}

fn fault(sources: &Sources) -> TlsError {
    sources.load().err().expect("a fault")
}

#[test]
fn a_made_certificate_is_served_and_only_its_owner_reads_the_files() {
    let (_state, folder) = state();
    assert!(matches!(Sources::find(Given::default(), &folder), Ok(None)));
    init(&folder, &hosts()).expect("certificates");
    for pair in [folder.ca(), folder.server()] {
        for path in [&pair.certificate, &pair.key] {
            let mode = fs::metadata(path).expect("a file").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        }
    }
    let loaded = find(&folder).load().expect("a configuration");
    let ca = fs::read_to_string(folder.ca().certificate).expect("a file");
    assert_eq!(loaded.ca, ca);
    assert_eq!(loaded.warnings, [""; 0]);
    assert_eq!(
        loaded.config.alpn_protocols,
        [b"h2".to_vec(), b"http/1.1".to_vec()]
    );
}

#[test]
fn what_is_there_is_left_and_the_ca_signs_again() {
    let (_state, folder) = state();
    init(&folder, &hosts()).expect("certificates");
    let text = |path: &Path| fs::read_to_string(path).expect("a file");
    let (ca, server) = (folder.ca().certificate, folder.server().certificate);
    let before = (text(&ca), text(&server));
    let refused = init(&folder, &hosts()).expect_err("a refusal");
    assert!(matches!(&refused, TlsError::Exists { path } if *path == server));
    assert_eq!((text(&ca), text(&server)), before);
    // A renewal: the certificate goes, and the CA that callers know stays.
    for path in [&server, &folder.server().key] {
        fs::remove_file(path).expect("a file");
    }
    init(&folder, &hosts()).expect("another certificate");
    assert_eq!(text(&ca), before.0);
    assert_ne!(text(&server), before.1);
    find(&folder).load().expect("a configuration");
}

#[test]
fn a_worker_gets_a_certificate_once_and_from_a_ca_that_is_there() {
    let (_state, folder) = state();
    let refused = certify(&folder, "gpu-1").expect_err("a refusal");
    assert!(matches!(refused, TlsError::NoCa { .. }) && refused.help().contains("init"));
    init(&folder, &hosts()).expect("certificates");
    let own = certify(&folder, "gpu-1").expect("a certificate");
    assert!(own.certificate.exists() && own.key.exists());
    assert!(matches!(
        certify(&folder, "gpu-1"),
        Err(TlsError::Exists { .. })
    ));
    let asking = Given {
        client_ca: Some(folder.ca().certificate),
        ..Given::default()
    };
    let sources = Sources::find(asking, &folder).expect("no fault");
    let sources = sources.expect("sources");
    assert!(sources.asks_workers() && !find(&folder).asks_workers());
    sources.load().expect("a configuration");
}

#[test]
fn files_that_cannot_be_served_are_named_with_the_way_out() {
    let (_state, folder) = state();
    let lone = Given {
        client_ca: Some("ca.pem".into()),
        ..Given::default()
    };
    assert!(matches!(
        Sources::find(lone, &folder),
        Err(TlsError::NoCertificate { .. })
    ));
    init(&folder, &hosts()).expect("certificates");
    let own = folder.server();
    let of = |certificate: &Path, key: &Path| {
        let given = Given {
            server: Some((certificate.into(), key.into())),
            client_ca: None,
        };
        let sources = Sources::find(given, &folder).expect("no fault");
        fault(&sources.expect("sources"))
    };
    let none = folder.path().join("none.pem");
    let cases = [
        (of(&none, &own.key), "none.pem"),
        (of(&own.key, &own.key), "server.key"),
        (of(&own.certificate, &folder.ca().key), "ca.key"),
        (of(&own.certificate, &own.certificate), "server.pem"),
    ];
    for (fault, name) in cases {
        assert!(fault.to_string().contains(name), "{fault}");
        assert!(!fault.help().is_empty());
    }
    fs::set_permissions(&own.key, fs::Permissions::from_mode(0o644)).expect("a mode");
    let open = fault(&find(&folder));
    assert!(
        matches!(open, TlsError::File(PemError::Exposed { mode: 0o644, .. }))
            && open.help().contains("chmod")
    );
}

#[test]
fn a_folder_with_a_ca_and_no_certificate_is_not_served_in_plain_text() {
    let (_state, folder) = state();
    init(&folder, &hosts()).expect("certificates");
    let own = folder.server();
    fs::remove_file(own.certificate).expect("a file");
    fs::remove_file(own.key).expect("a file");
    let fault = Sources::find(Given::default(), &folder).expect_err("a refusal");
    assert!(matches!(fault, TlsError::NoServer { .. }), "{fault}");
    assert!(
        fault.help().contains("--insecure-no-tls"),
        "{}",
        fault.help()
    );
}

/// What `openssl x509 -req` of OpenSSL 3.0 makes without extensions. It ends in 2126.
const VERSION_1: &str = "\
-----BEGIN CERTIFICATE-----
MIIBFzCBvwIUQ+ymBsFtTP1CB1pAaLrzCBY8fIkwCgYIKoZIzj0EAwIwDjEMMAoG
A1UEAwwDZ3B1MCAXDTI2MTEyODA3NDEzN1oYDzIxMjYxMTA0MDc0MTM3WjAOMQww
CgYDVQQDDANncHUwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQBq9fCmPZ+dlfp
tHwDjXsy2uYVAfYpg3TK3hTtHIdG8fOrOwWsiZjim7Ykcnvf8O2EdPbkJ7WOSrWX
/0Tk/jIrMAoGCCqGSM49BAMCA0cAMEQCIEi1f2Pfn3Wtk1Rgr/YGNF/Ye2Ay2ZWh
1e2eGvj9AZfdAiABwsyLsYX7uQXaSGgrt4GF/VBAZu/SWA5APoEsqt42Qw==
-----END CERTIFICATE-----
";

#[test]
fn a_certificate_of_version_1_is_refused_for_that_and_not_for_its_key() {
    let (_state, folder) = state();
    init(&folder, &hosts()).expect("certificates");
    fs::write(folder.server().certificate, VERSION_1).expect("a file");
    let old = fault(&find(&folder));
    assert!(
        matches!(&old, TlsError::File(PemError::Version { .. })),
        "{old}"
    );
    assert!(old.help().contains("version 3"), "{}", old.help());
}

#[test]
fn who_is_to_make_a_certificate_is_told_for_which_state_folder() {
    let (state, folder) = state();
    let named = format!("--state-dir {}", state.path().display());
    let lone = Given {
        client_ca: Some("ca.pem".into()),
        ..Given::default()
    };
    let lone = Sources::find(lone, &folder).expect_err("no certificate");
    let unmade = certify(&folder, "a").expect_err("no CA");
    for fault in [lone, unmade] {
        assert!(fault.help().contains(&named), "{}", fault.help());
    }
}

/// A certificate of the server that ends in `days` and its key, in place of those of `folder`.
fn replace(folder: &Folder, days: i64) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(hosts()).expect("hosts");
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(days);
    let certificate = params.self_signed(&key).expect("a certificate");
    let own = folder.server();
    fs::write(own.certificate, certificate.pem()).expect("a file");
    fs::write(own.key, key.serialize_pem()).expect("a file");
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_and_one_that_has_ended_is_not_served() {
    let (_state, folder) = state();
    init(&folder, &hosts()).expect("certificates");
    replace(&folder, 29);
    let loaded = find(&folder).load().expect("a configuration");
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("server.pem expires on"));
    replace(&folder, 31);
    let loaded = find(&folder).load().expect("a configuration");
    assert_eq!(loaded.warnings, [""; 0]);
    replace(&folder, -1);
    let expired = fault(&find(&folder));
    assert!(
        matches!(&expired, TlsError::Expired { path, .. } if *path == folder.server().certificate)
    );
    assert!(expired.help().contains("qlora-coordinator init"));
}
