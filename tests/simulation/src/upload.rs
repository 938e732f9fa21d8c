//! Uploads by the protocol: what the coordinator has is asked first, and the rest is sent.

use std::time::Duration;

use qlora_client::Client;
use qlora_client::retry::until_answered;
use qlora_proto::{StatArtifactRequest, UploadHeader, UploadRequest};
use sha2::{Digest, Sha256};
use tokio_stream::StreamExt;
use tonic::Status;

/// Bytes of one message.
const PART: usize = 1 << 10;
/// Time from one message to the next.
const GAP: Duration = Duration::from_millis(150);

/// What artifacts are known by.
pub fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Uploads until the coordinator has all of it, in the name of the token and the session that `by`
/// gives.
///
/// # Errors
/// It is refused for good.
pub async fn upload(
    client: &Client,
    digest: &str,
    bytes: &[u8],
    by: impl Fn() -> (u64, u64),
) -> Result<(), Status> {
    until_answered(|| once(client, digest, bytes, by())).await
}

/// One try, from where the one before broke off.
async fn once(
    client: &Client,
    digest: &str,
    bytes: &[u8],
    (token, session): (u64, u64),
) -> Result<(), Status> {
    let mut client = client.artifacts.clone();
    let request = StatArtifactRequest {
        digest: digest.to_owned(),
    };
    let stat = client.stat_artifact(request).await?.into_inner();
    if stat.complete {
        return Ok(());
    }
    let header = UploadHeader {
        digest: digest.to_owned(),
        size: bytes.len() as u64,
        offset: stat.received,
        token,
        session,
    };
    let rest = bytes.get(stat.received as usize..).unwrap_or_default();
    let part = |data: &[u8]| UploadRequest {
        header: None,
        data: data.to_vec(),
    };
    let mut messages: Vec<_> = rest.chunks(PART).map(part).collect();
    match messages.first_mut() {
        Some(first) => first.header = Some(header),
        None => messages.push(UploadRequest {
            header: Some(header),
            data: Vec::new(),
        }),
    }
    let sent = client
        .upload(tokio_stream::iter(messages).throttle(GAP))
        .await;
    sent.map(drop)
}
