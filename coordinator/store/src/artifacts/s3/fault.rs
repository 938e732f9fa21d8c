//! What a bucket's refusals mean.

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

/// Longer answers of a server are cut.
const LONGEST_SHOWN: usize = 400;

/// Why a bucket did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BucketFault {
    #[error("there is no such bucket")]
    NoBucket,
    /// Missing, wrong or expired credentials, or ones that may not do this.
    #[error("it refuses the credentials of the AWS_* variables ({0})")]
    Denied(String),
    /// Still, after tries within a bound.
    #[error("it asks for fewer calls, and went on doing so ({0})")]
    Throttled(String),
    #[error("it cannot be reached ({0})")]
    Unreachable(String),
    /// The object was replaced while it was read.
    #[error("an object was replaced while it was read; read it again")]
    Replaced,
    /// The AWS_* variables do not go together, or one has no meaning.
    #[error("the AWS_* variables cannot be used ({0})")]
    Settings(String),
    #[error("it failed ({0})")]
    Other(String),
}

impl BucketFault {
    /// The way out, for whoever starts a coordinator.
    pub fn help(&self) -> &'static str {
        match self {
            Self::NoBucket => {
                "create the bucket, or give --artifacts another one; AWS_REGION and AWS_ENDPOINT_URL say where it is looked for"
            }
            Self::Denied(_) => {
                "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN where they have one, of who may list, read, write and delete there"
            }
            Self::Unreachable(_) => {
                "set AWS_ENDPOINT_URL and AWS_REGION to where the bucket is, and credentials; without them they are asked of the cloud machine that this runs on"
            }
            Self::Settings(_) => "correct the AWS_* variable that the message names",
            Self::Throttled(_) | Self::Replaced | Self::Other(_) => {
                "try again later, or give --artifacts another bucket or a folder"
            }
        }
    }

    /// Of an error of the library. It hides the status of some requests in a text, so both count.
    pub(super) fn of(error: &Error) -> Self {
        let text = chain(error);
        let says = |word: &str| text.contains(word);
        match error {
            _ if says("NoSuchBucket") => Self::NoBucket,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Self::Denied(short(&text))
            }
            Error::Precondition { .. } => Self::Replaced,
            _ if is_denial(&text) => Self::Denied(short(&text)),
            _ if says("SlowDown") || says("status code: 429") || says("status code: 503") => {
                Self::Throttled(short(&text))
            }
            _ if is_of_the_network(error) => Self::Unreachable(short(&text)),
            _ => Self::Other(short(&text)),
        }
    }
}

/// Whether `text` has a status or a code by which S3 refuses a caller.
fn is_denial(text: &str) -> bool {
    let words = [
        "status code: 401",
        "status code: 403",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AccessDenied",
    ];
    words.iter().any(|word| text.contains(word))
}

/// Whether no answer came.
fn is_of_the_network(error: &Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<HttpError>().is_some_and(|http| {
            matches!(
                http.kind(),
                HttpErrorKind::Connect | HttpErrorKind::Timeout | HttpErrorKind::Interrupted
            )
        })
    })
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |cause| cause.source())
}

/// All that the causes of `error` say; a cause that repeats the next one says it once.
fn chain(error: &Error) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let said = cause.to_string();
        if !text.contains(&said) {
            if !text.is_empty() {
                text += ": ";
            }
            text += &said;
        }
    }
    text
}

/// One line of what a server said.
fn short(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    line.join(" ").chars().take(LONGEST_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Error {
        Error::Generic {
            store: "S3",
            source: text.into(),
        }
    }

    fn of(text: &str) -> BucketFault {
        BucketFault::of(&generic(text))
    }

    #[test]
    fn what_a_server_says_tells_what_is_wrong() {
        let status = "Error performing list request: Server returned non-2xx status code:";
        assert!(matches!(
            of(&format!(
                "{status} 404 Not Found: <Code>NoSuchBucket</Code>"
            )),
            BucketFault::NoBucket
        ));
        for text in [
            "403 Forbidden: ",
            "400 Bad Request: <Code>ExpiredToken</Code>",
        ] {
            let fault = of(&format!("{status} {text}"));
            assert!(matches!(fault, BucketFault::Denied(_)), "{fault}");
        }
        for text in [
            "503 Service Unavailable: <Code>SlowDown</Code>",
            "429 Too Many Requests: ",
        ] {
            let fault = of(&format!("{status} {text}"));
            assert!(matches!(fault, BucketFault::Throttled(_)), "{fault}");
        }
        let fault = of(&format!("{status} 500 Internal Server Error:\n <a\n>"));
        assert!(
            matches!(&fault, BucketFault::Other(text) if !text.contains('\n')),
            "{fault}"
        );
    }
}
