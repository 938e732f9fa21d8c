//! What a client brings with every call: the token, from where it was found, and the trace context.

use std::path::Path;
use std::sync::{Arc, Once};

use qlora_access::{Found, Search, Token, TokenError};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Status};

/// The variable that holds a token itself.
const VARIABLE: &str = "QLORA_TOKEN";

/// Adds the token and the trace context to every call.
#[derive(Clone)]
pub struct Credentials(Arc<Source>);

enum Source {
    File(Token),
    Variable(Token),
    /// Nobody gave a token: each call looks for the record of a coordinator on this machine, which
    /// may start, stop and start again under another token while this client lives.
    Record(Search),
}

impl Credentials {
    /// The token is the first line of `file`, else `QLORA_TOKEN`, else what the coordinator at
    /// `host` has left for programs of this machine.
    pub fn new(file: Option<&Path>, host: &str, port: u16) -> Result<Self, TokenError> {
        let source = match (file, variable()) {
            (Some(file), _) => {
                warn_once(file);
                Source::File(Token::read(file)?)
            }
            (None, Some(text)) => Source::Variable(Token::parse(&text, VARIABLE)?),
            (None, None) => Source::Record(Search::new(host, port)),
        };
        Ok(Self(Arc::new(source)))
    }

    pub fn token(&self) -> Option<Token> {
        match &*self.0 {
            Source::File(token) | Source::Variable(token) => Some(token.clone()),
            Source::Record(search) => match search.find() {
                Found::Token(token) => Some(token),
                Found::Stale | Found::Nothing => None,
            },
        }
    }

    /// Whether a token was given, so that no other one will be found later.
    pub fn is_given(&self) -> bool {
        !matches!(&*self.0, Source::Record(_))
    }

    /// The way out where the coordinator refuses the token.
    pub fn help(&self) -> &'static str {
        match &*self.0 {
            Source::File(_) => {
                "the file that --token-file or QLORA_TOKEN_FILE names holds another token; copy `token` from the state folder of this coordinator, or leave both away on the coordinator's own machine"
            }
            Source::Variable(_) => {
                "QLORA_TOKEN holds another token; unset it on the coordinator's own machine, elsewhere set it to `token` from the coordinator's state folder"
            }
            Source::Record(search) => match search.find() {
                Found::Token(_) => {
                    "the token that a coordinator of this user left for this address is another one; give --token-file FILE with a copy of `token` from the state folder of the coordinator that answers"
                }
                Found::Stale => {
                    "the coordinator that this user ran at this address is gone, and another one answers; start it again, or give --token-file FILE with the other one's token"
                }
                Found::Nothing => {
                    "this user runs no coordinator at this address on this machine; give --token-file FILE with a copy of `token` from the coordinator's state folder, or set QLORA_TOKEN"
                }
            },
        }
    }
}

/// One program makes many clients with the same file.
fn warn_once(file: &Path) {
    static TOLD: Once = Once::new();
    if let Some(exposure) = Token::exposure(file) {
        TOLD.call_once(|| tracing::warn!("{exposure}"));
    }
}

/// A variable that is set to nothing counts as not set.
fn variable() -> Option<String> {
    std::env::var(VARIABLE)
        .ok()
        .filter(|text| !text.trim().is_empty())
}

impl tonic::service::Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        // A token is visible ASCII, which every header can hold.
        let bearer = self
            .token()
            .and_then(|token| format!("Bearer {}", token.secret()).parse().ok());
        if let Some(mut bearer) = bearer {
            MetadataValue::<Ascii>::set_sensitive(&mut bearer, true);
            request
                .metadata_mut()
                .insert(qlora_proto::AUTHORIZATION, bearer);
        }
        qlora_telemetry::inject(request.metadata_mut());
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use tonic::service::Interceptor;

    use super::*;

    #[test]
    fn a_file_is_sent_with_every_call_and_an_unusable_one_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("mine");
        std::fs::write(&file, "  a-secret \nmore\n").expect("a file");
        let mut credentials = Credentials::new(Some(&file), "127.0.0.1", 1).expect("credentials");
        let sent = credentials.call(Request::new(())).expect("a request");
        assert_eq!(
            sent.metadata().get("authorization").expect("a token"),
            "Bearer a-secret"
        );
        assert!(credentials.is_given() && credentials.help().contains("--token-file"));
        for text in ["", "two words"] {
            std::fs::write(&file, text).expect("a file");
            let fault = Credentials::new(Some(&file), "127.0.0.1", 1)
                .err()
                .expect("a refusal");
            assert!(fault.to_string().contains("mine"), "{fault}");
        }
        assert!(matches!(
            Credentials::new(Some(&folder.path().join("none")), "127.0.0.1", 1),
            Err(TokenError::Read { .. })
        ));
    }

    #[test]
    fn a_call_to_another_machine_brings_no_token_of_this_one() {
        let mut credentials = Credentials(Arc::new(Source::Record(Search::new("192.0.2.1", 7070))));
        let sent = credentials.call(Request::new(())).expect("a request");
        assert!(sent.metadata().get("authorization").is_none());
        assert!(!credentials.is_given() && credentials.help().contains("--token-file"));
    }
}
