//! How a bucket is reached, and whether it can be used as artifacts need it.

use std::io;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, Error, ObjectStore, RetryConfig};
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::fault::BucketFault;
use crate::artifacts::place::BucketPlace;

/// Tries of a request while the coordinator serves. Whoever asked is told within this time.
const SERVING: (usize, Duration) = (6, Duration::from_secs(30));
/// Tries of a request at the start, which somebody waits for.
const STARTING: (usize, Duration) = (1, Duration::from_secs(5));
/// Variables that hold the URL of a server.
const ENDPOINTS: [&str; 5] = [
    "AWS_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL_STS",
    "AWS_METADATA_ENDPOINT",
];
/// The key at which a start tries whether it may write; nothing is ever put there.
const PROBE: &str = "probe";

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(120);
/// Bytes in a second of the slowest way to a bucket that an upload gets through on.
const SLOWEST: u64 = 64 << 10;

/// Clients of the bucket that was tried.
#[derive(Debug)]
pub(super) struct Clients {
    pub client: AmazonS3,
    /// The library takes the time for sending as silence. This one waits for an answer without a
    /// bound, and [`sending`] bounds it.
    pub sender: AmazonS3,
}

pub(super) async fn open(
    place: &BucketPlace,
    root: &Path,
    variables: &[(String, String)],
) -> Result<Clients, BucketFault> {
    // Whichever part of the program comes first installs it; there is one provider in all.
    let _ = rustls::crypto::ring::default_provider().install_default();
    check_settings(variables)?;
    let settings = |e: Error| BucketFault::Settings(e.to_string());
    let client = |tries, silence| client(place, variables, tries, silence).map_err(settings);
    check(&client(STARTING, Some(SILENCE))?, root)
        .await
        .map_err(|e| BucketFault::of(&e))?;
    Ok(Clients {
        client: client(SERVING, Some(SILENCE))?,
        sender: client(SERVING, None)?,
    })
}

/// What sending so many `bytes` comes to.
///
/// # Errors
/// Also where there is no answer after the time that they take on the slowest way, and [`SILENCE`].
pub(super) async fn sending<T>(
    bytes: u64,
    sent: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    within(patience(bytes), sent).await
}

fn patience(bytes: u64) -> Duration {
    SILENCE + Duration::from_secs(bytes / SLOWEST)
}

async fn within<T>(
    limit: Duration,
    sent: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    timeout(limit, sent).await.unwrap_or_else(|_| {
        let text = format!("no answer within {limit:?}");
        let late = io::Error::new(io::ErrorKind::TimedOut, text);
        Err(Error::Generic {
            store: "S3",
            source: Box::new(HttpError::new(HttpErrorKind::Timeout, late)),
        })
    })
}

/// Whether the addresses in `variables` are any; the library takes what is none for granted.
///
/// # Errors
/// One is no URL of a server. It is named, and not repeated: it may hold a password.
pub(in crate::artifacts) fn check_settings(
    variables: &[(String, String)],
) -> Result<(), BucketFault> {
    let given = variables.iter().filter(|(_, value)| !value.is_empty());
    for (name, value) in given.filter(|(name, _)| ENDPOINTS.contains(&name.as_str())) {
        let is_of_a_server = reqwest::Url::parse(value)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if !is_of_a_server {
            return Err(BucketFault::Settings(format!(
                "{name} is no URL of a server; write https://HOST:PORT, or http://HOST:PORT where nothing is to be encrypted"
            )));
        }
    }
    Ok(())
}

/// A client by the `AWS_*` variables; those that it does not know are for others. It waits for so much
/// `silence` of the server.
fn client(
    place: &BucketPlace,
    variables: &[(String, String)],
    tries: (usize, Duration),
    silence: Option<Duration>,
) -> Result<AmazonS3, Error> {
    let (max_retries, retry_timeout) = tries;
    let retry = RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(5),
            base: 2.0,
        },
        max_retries,
        retry_timeout,
    };
    // A large artifact takes as long as it takes; a server that is silent is not waited for.
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    let silence = silence.map(|silence| (ClientConfigKey::ReadTimeout, seconds(silence)));
    let patience = [
        (ClientConfigKey::ConnectTimeout, "5s".to_owned()),
        (ClientConfigKey::Timeout, "1d".to_owned()),
    ];
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables
        .iter()
        // One that is empty is not set, as for other tools.
        .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
    {
        if let Ok(key) = name.to_ascii_lowercase().parse() {
            builder = builder.with_config(key, value);
        }
    }
    // One artifact goes at a time, and not every server knows the call that removes many.
    builder = builder
        .with_bucket_name(&place.bucket)
        .with_disable_bulk_delete(true);
    for (key, value) in patience.into_iter().chain(silence) {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    // Who names an endpoint without TLS wants it; other tools ask for no second variable.
    let endpoint = builder
        .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
        .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        builder = builder.with_allow_http(true);
    }
    builder.with_retry(retry).build()
}

/// Tries what artifacts need, and leaves nothing: an upload that is ended, and a listing.
async fn check(client: &AmazonS3, root: &Path) -> Result<(), Error> {
    let probe = root.clone().join(PROBE);
    let upload = client.create_multipart(&probe).await?;
    client.abort_multipart(&probe, &upload).await?;
    client.list(Some(root)).next().await.transpose().map(drop)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[test]
    fn an_answer_is_waited_for_as_long_as_its_bytes_take() {
        for (bytes, seconds) in [(0, 120), (8 << 20, 120 + 128), (64 << 20, 120 + 1024)] {
            assert_eq!(patience(bytes), Duration::from_secs(seconds));
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_what_was_sent_cannot_be_reached() {
        let late = within::<()>(Duration::ZERO, pending()).await;
        let fault = BucketFault::of(&late.expect_err("no end"));
        assert!(matches!(fault, BucketFault::Unreachable(_)), "{fault}");
        assert!(fault.to_string().contains("no answer within"), "{fault}");
        let sent = sending(1, async { Ok(7) }).await;
        assert_eq!(sent.expect("an answer"), 7);
    }
}
