//! What the artifact store promises of a bucket, beside what it promises everywhere.

mod common;
mod places;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};

use common::{LIMIT, digest, owner};
use object_store::ObjectStoreExt;
use places::{Holding, PART, Place, Server, bucket_place, variables};
use qlora_store::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

const BYTES: [u8; 3 * PART] = [5; 3 * PART];

/// What refuses a store with these variables.
async fn refusal(place: &BucketPlace, variables: &[(String, String)]) -> BucketFault {
    let folder = tempfile::tempdir().expect("a folder");
    let opened = ArtifactStore::open_bucket(place, &owner(), folder.path(), variables).await;
    match opened.err() {
        Some(ArtifactError::Bucket {
            place: named,
            fault,
        }) => {
            assert_eq!(named, place.to_string());
            assert!(!fault.help().is_empty());
            fault
        }
        other => panic!("{other:?}"),
    }
}

/// A server that answers every request alike, and how many it got.
async fn answering(status: &'static str, body: &'static str) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let requests = Arc::<AtomicUsize>::default();
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            counted.fetch_add(1, Ordering::SeqCst);
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            // Who has gone away meanwhile needs no answer.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (format!("http://{address}"), requests)
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named_at_the_start() {
    let place = BucketPlace {
        bucket: "nobody-has-made-it".into(),
        ..bucket_place()
    };
    let fault = refusal(&place, &Server::get().variables()).await;
    assert!(matches!(fault, BucketFault::NoBucket), "{fault}");
}

#[tokio::test]
async fn credentials_that_are_refused_are_told_at_the_start_without_another_try() {
    let body = "<Error><Code>InvalidAccessKeyId</Code></Error>";
    let (address, requests) = answering("403 Forbidden", body).await;
    let fault = refusal(&bucket_place(), &variables(&address)).await;
    assert!(matches!(fault, BucketFault::Denied(_)), "{fault}");
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_bucket_that_asks_for_fewer_calls_is_asked_again_within_a_bound() {
    let body = "<Error><Code>SlowDown</Code></Error>";
    let (address, requests) = answering("503 Service Unavailable", body).await;
    let fault = refusal(&bucket_place(), &variables(&address)).await;
    assert!(matches!(fault, BucketFault::Throttled(_)), "{fault}");
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_at_the_start() {
    // Nothing listens on the port of tcpmux.
    let fault = refusal(&bucket_place(), &variables("http://127.0.0.1:1")).await;
    assert!(matches!(fault, BucketFault::Unreachable(_)), "{fault}");
}

#[tokio::test]
async fn variables_that_do_not_go_together_are_told_at_the_start() {
    let mut variables = Server::get().variables();
    variables.retain(|(name, _)| name != "AWS_SECRET_ACCESS_KEY");
    let fault = refusal(&bucket_place(), &variables).await;
    assert!(matches!(fault, BucketFault::Settings(_)), "{fault}");
}

#[tokio::test]
async fn an_artifact_beyond_what_parts_can_hold_is_refused_before_it_is_sent() {
    let store = Place::bucket().open().await;
    let refused = store.upload(&digest(&BYTES), u64::MAX, 0).await.err();
    assert!(
        matches!(refused, Some(ArtifactError::TooLarge { .. })),
        "{refused:?}"
    );
}

/// Leaves two parts of `BYTES`.
async fn break_off(store: &ArtifactStore) {
    let upload = store.upload(&digest(&BYTES), BYTES.len() as u64, 0).await;
    let mut upload = upload.expect("an upload");
    upload
        .write(BYTES[..2 * PART].to_vec())
        .await
        .expect("bytes");
}

#[tokio::test]
async fn a_record_that_was_not_written_to_its_end_counts_up_to_its_last_whole_line() {
    let place = Place::bucket();
    break_off(&place.open().await).await;
    let mut records = fs::read_dir(place.folder.path()).expect("a folder");
    let record = records.next().expect("a record").expect("a file").path();
    let text = fs::read(&record).expect("a record");
    fs::write(&record, &text[..text.len() - 1]).expect("half a line");
    let store = place.open().await;
    let name = digest(&BYTES);
    assert_eq!(
        store.stat(&name).await.expect("a stat").size,
        PART as u64,
        "one part is recorded"
    );
    let upload = store.upload(&name, BYTES.len() as u64, PART as u64).await;
    let mut upload = upload.expect("an upload");
    upload.write(BYTES[PART..].to_vec()).await.expect("bytes");
    let finished = upload.finish().await.expect("the right bytes");
    finished.publish().await.expect("a name");
    let mut reader = store.read(&name, 0).await.expect("a reader");
    assert_eq!(reader.next(1000).await.expect("bytes"), BYTES);
}

#[tokio::test]
async fn an_upload_that_its_bucket_has_ended_starts_anew() {
    let place = Place::bucket();
    let store = place.open().await;
    break_off(&store).await;
    // As the rule of a bucket's owner does, or another coordinator with a copy of the records.
    let copy = tempfile::tempdir().expect("a folder");
    for file in fs::read_dir(place.folder.path()).expect("a folder") {
        let file = file.expect("a record").path();
        let name = file.file_name().expect("a name");
        let old = fs::read_to_string(&file).expect("a record");
        // Without parts an upload is of no use, and is ended.
        let head = old.lines().next().expect("a line").to_owned() + "\n";
        fs::write(copy.path().join(name), head).expect("a record");
    }
    let bucket = place.bucket.as_ref().expect("a bucket");
    let variables = Server::get().variables();
    let other = ArtifactStore::open_bucket(bucket, &owner(), copy.path(), &variables).await;
    drop(other.expect("a store"));
    assert_eq!(Server::get().begun(&bucket.prefix).await, 0);

    let (name, size) = (digest(&BYTES), BYTES.len() as u64);
    let upload = store.upload(&name, size, 2 * PART as u64).await;
    let mut upload = upload.expect("an upload");
    let refused = upload.write(BYTES[2 * PART..].to_vec()).await;
    assert!(
        matches!(refused, Err(ArtifactError::Offset { expected: 0, .. })),
        "{refused:?}"
    );
    assert_eq!(store.stat(&name).await.expect("a stat").size, 0);
    assert_eq!(place.begun().await, 0);
}

#[tokio::test]
async fn records_of_another_place_stay_and_are_not_gone_on_with() {
    let place = Place::bucket();
    break_off(&place.open().await).await;
    let variables = Server::get().variables();
    let (bucket, records) = (bucket_place(), place.folder.path());
    let other = ArtifactStore::open_bucket(&bucket, &owner(), records, &variables).await;
    let found = other.expect("a store").stat(&digest(&BYTES)).await;
    assert_eq!(found.expect("a stat").size, 0);
    let again = place.open().await;
    let found = again.stat(&digest(&BYTES)).await.expect("a stat");
    assert_eq!(found.size, 2 * PART as u64);
}

#[tokio::test]
async fn bytes_of_two_objects_are_never_given_as_one_artifact() {
    let place = Place::bucket();
    let store = place.open().await;
    // More than the server and the client hold on the way.
    let bytes = vec![3u8; 32 << 20];
    let name = digest(&bytes);
    let key = format!(
        "{}/sha256/{}/{name}",
        place.bucket.as_ref().expect("a bucket").prefix,
        &name.to_string()[..2]
    );
    let client = Server::get().client();
    let key = object_store::path::Path::from(key);
    client
        .put(&key, bytes.clone().into())
        .await
        .expect("an object");
    let mut reader = store.read(&name, 0).await.expect("a reader");
    let mut read = reader.next(1 << 20).await.expect("bytes");
    client
        .put(&key, vec![4u8; 32 << 20].into())
        .await
        .expect("an object");
    // Either the old bytes to their end, or a fault: never a mixture that counts.
    let ended = loop {
        match reader.next(1 << 20).await {
            Ok(piece) if piece.is_empty() => break Ok(()),
            Ok(piece) => read.extend(piece),
            Err(e) => break Err(e),
        }
    };
    assert!(ended.is_err() || read == bytes, "{ended:?}");
}

#[tokio::test]
async fn an_address_that_is_no_url_is_named_at_the_start_and_an_empty_one_is_not_set() {
    for address in [
        "127.0.0.1:42950",
        "localhost:9000",
        "ftp://host",
        "http://",
        "no",
    ] {
        let fault = refusal(&bucket_place(), &variables(address)).await;
        let text = fault.to_string();
        assert!(
            matches!(fault, BucketFault::Settings(_)),
            "{address}: {text}"
        );
        for part in ["AWS_ENDPOINT_URL", "http://HOST:PORT"] {
            assert!(text.contains(part), "{address}: {text}");
        }
    }
    let mut variables = Server::get().variables();
    variables.push(("AWS_ENDPOINT_URL_S3".into(), String::new()));
    variables.push(("AWS_SESSION_TOKEN".into(), String::new()));
    let folder = tempfile::tempdir().expect("a folder");
    let (place, records) = (bucket_place(), folder.path());
    let opened = ArtifactStore::open_bucket(&place, &owner(), records, &variables).await;
    opened.map(drop).expect("a store");
}

async fn put(store: &ArtifactStore, bytes: &[u8]) {
    let upload = store.upload(&digest(bytes), bytes.len() as u64, 0).await;
    let mut upload = upload.expect("an upload");
    upload.write(bytes.to_vec()).await.expect("bytes");
    let finished = upload.finish().await.expect("the right bytes");
    finished.publish().await.expect("a name");
}

/// A store whose requests can be held.
async fn held() -> (ArtifactStore, Holding, Place) {
    let (place, holding) = (Place::bucket(), Server::get().holding().await);
    let bucket = place.bucket.as_ref().expect("a bucket");
    let variables = variables(&holding.address);
    let store = ArtifactStore::open_bucket(bucket, &owner(), place.folder.path(), &variables).await;
    (store.expect("a store"), holding, place)
}

#[tokio::test]
async fn a_removal_on_the_wire_keeps_those_waiting_who_ask_for_this_artifact_and_nobody_else() {
    let (store, holding, _place) = held().await;
    for bytes in [&b"goes"[..], b"stays"] {
        put(&store, bytes).await;
    }
    holding.hold("DELETE");
    let removing = store.clone();
    let removal =
        tokio::spawn(async move { removing.release(&digest(b"goes"), async { false }).await });
    holding.holds().await;
    let stat = timeout(LIMIT, store.stat(&digest(b"stays"))).await;
    assert!(stat.expect("an answer").expect("a stat").complete);
    let (name, mut context) = (digest(b"goes"), Context::from_waker(Waker::noop()));
    let mut gone = Box::pin(store.stat(&name));
    assert!(gone.as_mut().poll(&mut context).is_pending());
    holding.let_pass();
    assert!(removal.await.expect("an end"));
    assert!(!gone.await.expect("a stat").complete);
}

#[tokio::test]
async fn an_upload_whose_end_nobody_waited_for_is_ended_in_the_bucket_later() {
    let (store, holding, place) = held().await;
    let upload = store.upload(&digest(&BYTES), BYTES.len() as u64, 0).await;
    let mut upload = upload.expect("an upload");
    upload.write(BYTES.to_vec()).await.expect("bytes");
    let finished = upload.finish().await.expect("the right bytes");
    holding.hold("DELETE");
    tokio::select! {
        () = finished.discard() => panic!("it has ended"),
        () = holding.holds() => {}
    }
    holding.let_pass();
    assert_eq!(place.begun().await, 1);
    store.clean().await;
    assert_eq!(place.begun().await, 0);
    assert_eq!(
        fs::read_dir(place.folder.path()).expect("a folder").count(),
        0
    );
}

/// As where its sender goes away while it begins.
#[tokio::test]
async fn an_upload_that_began_for_nobody_is_ended_in_the_bucket() {
    let (store, holding, place) = held().await;
    let upload = store.upload(&digest(&BYTES), BYTES.len() as u64, 0).await;
    let mut upload = upload.expect("an upload");
    holding.hold("POST");
    tokio::select! {
        written = upload.write(BYTES.to_vec()) => panic!("it has ended: {written:?}"),
        () = holding.holds() => {}
    }
    drop(upload);
    let ended = holding.passes("DELETE");
    holding.let_pass();
    // It begins at another try, and ends since nobody has it.
    timeout(LIMIT, ended).await.expect("an end");
    assert_eq!(place.begun().await, 0);
}
