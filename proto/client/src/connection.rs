//! The connection: address, credentials, keep-alive.

use std::path::Path;
use std::time::Duration;

use qlora_access::TokenError;
use qlora_codes::Code;
use qlora_proto::artifact_service_client::ArtifactServiceClient;
use qlora_proto::config_service_client::ConfigServiceClient;
use qlora_proto::event_service_client::EventServiceClient;
use qlora_proto::job_service_client::JobServiceClient;
use qlora_proto::token_service_client::TokenServiceClient;
use qlora_proto::worker_service_client::WorkerServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;

use crate::credentials::Credentials;
use crate::route::{Place, Route};

/// Configurations and long error texts may be large; artifacts travel in small pieces.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Where the address names no port, as HTTP has it.
const HTTP_PORT: u16 = 80;

/// Why no client can be made. Nothing has been sent yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("`{address}` is no address: {fault}")]
    Address { address: String, fault: String },
    #[error("{0}")]
    Token(#[from] TokenError),
}

impl ConnectError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        Code::Connection
    }

    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::Address { .. } => "write --coordinator HOST:PORT, such as 127.0.0.1:7070".into(),
            Self::Token(fault) => fault.help(),
        }
    }
}

/// Clients over one connection, which is made when it is needed and again when it broke.
#[derive(Clone)]
pub struct Client {
    pub jobs: JobServiceClient<Route>,
    pub configs: ConfigServiceClient<Route>,
    pub workers: WorkerServiceClient<Route>,
    pub artifacts: ArtifactServiceClient<Route>,
    pub events: EventServiceClient<Route>,
    pub tokens: TokenServiceClient<Route>,
    /// As it was given.
    pub address: String,
    route: Route,
}

impl Client {
    /// `address` is HOST:PORT or a URL, or several of them with commas; the token is the first line
    /// of `token_file`, else `QLORA_TOKEN`, else the one that a coordinator of this user on this
    /// machine has left for the address that is called.
    pub fn new(address: &str, token_file: Option<&Path>) -> Result<Self, ConnectError> {
        let places: Result<Vec<Place>, ConnectError> = address
            .split(',')
            .map(|one| place(one.trim(), token_file))
            .collect();
        let route = Route::new(places?);
        let service = || route.clone();
        Ok(Self {
            jobs: JobServiceClient::new(service()).max_decoding_message_size(LARGEST_MESSAGE),
            configs: ConfigServiceClient::new(service()),
            workers: WorkerServiceClient::new(service()).max_decoding_message_size(LARGEST_MESSAGE),
            artifacts: ArtifactServiceClient::new(service()),
            events: EventServiceClient::new(service()),
            tokens: TokenServiceClient::new(service()).max_decoding_message_size(LARGEST_MESSAGE),
            address: address.to_owned(),
            route,
        })
    }

    /// The one of the addresses that calls go to now.
    pub fn current_address(&self) -> &str {
        &self.route.current().address
    }

    #[cfg(test)]
    pub(crate) fn route(&self) -> Route {
        self.route.clone()
    }

    fn credentials(&self) -> &Credentials {
        &self.route.current().credentials
    }

    /// The way out where the coordinator refuses the token with the words `said`: it depends on
    /// where the token is from, but for one that is over.
    pub fn token_help(&self, said: &str) -> &'static str {
        if said.contains("has expired") || said.contains("was revoked") {
            return "an admin makes another one with qlora-ctl token create";
        }
        self.credentials().help()
    }

    /// Whether a call would bring a token by now.
    pub fn has_token(&self) -> bool {
        self.credentials().token().is_some()
    }

    /// Whether a coordinator that starts later may leave the token that is missing now.
    pub fn may_find_token(&self) -> bool {
        !self.credentials().is_given()
    }

    /// The address of the page, with the key that opens it. Without a token the page asks for it.
    pub fn page(&self) -> String {
        let url = url(self.current_address().trim_end_matches('/'));
        match self.credentials().token() {
            Some(token) => format!("{url}/?token={}", token.page_key()),
            None => format!("{url}/"),
        }
    }
}

/// One of the addresses; nothing is sent.
fn place(address: &str, token_file: Option<&Path>) -> Result<Place, ConnectError> {
    let endpoint = Endpoint::from_shared(url(address)).map_err(|e| ConnectError::Address {
        address: address.into(),
        fault: e.to_string(),
    })?;
    let Some(host) = endpoint.uri().host().filter(|host| !host.is_empty()) else {
        return Err(ConnectError::Address {
            address: address.into(),
            fault: "the host is missing".into(),
        });
    };
    if endpoint.uri().scheme_str() != Some("http") {
        // Anything else would go over the wire as plain text, the token too.
        let fault =
            "only http is spoken; put a tunnel or a proxy for TLS on both sides of the network";
        return Err(ConnectError::Address {
            address: address.into(),
            fault: fault.into(),
        });
    }
    let port = port(address, endpoint.uri()).map_err(|fault| ConnectError::Address {
        address: address.into(),
        fault: fault.into(),
    })?;
    let credentials = Credentials::new(token_file, host, port)?;
    let channel = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .connect_lazy();
    Ok(Place {
        address: address.to_owned(),
        service: InterceptedService::new(channel, credentials.clone()),
        credentials,
    })
}

/// The port of a URL; a plain HOST:PORT must name it, since nothing here listens on that of HTTP.
fn port(address: &str, uri: &tonic::transport::Uri) -> Result<u16, &'static str> {
    let is_url = address.contains("://");
    match (
        uri.port_u16(),
        uri.port().is_some() || uri.authority().is_some_and(|a| ends_like_port(a.as_str())),
    ) {
        (Some(port), _) if port > 0 => Ok(port),
        (_, true) => Err("its port is not a number from 1 to 65535"),
        (_, false) if is_url => Ok(HTTP_PORT),
        (_, false) => Err("the port is missing"),
    }
}

/// Whether a colon that no bracket of an IPv6 address holds stands before the end.
fn ends_like_port(authority: &str) -> bool {
    authority
        .rsplit(']')
        .next()
        .is_some_and(|rest| rest.contains(':'))
}

/// HOST:PORT or a URL as a URL.
fn url(address: &str) -> String {
    if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_names_its_port_and_one_that_is_none_is_refused_by_name() {
        for address in [
            "127.0.0.1:7070",
            "host:1",
            "[::1]:7070",
            "http://host:7070",
            "http://proxy",
            "one:7070, two:7070",
        ] {
            assert!(Client::new(address, None).is_ok(), "{address}");
        }
        for (address, words) in [
            ("https://host:7070", "only http is spoken"),
            ("https://[::1]", "only http is spoken"),
            ("localhost", "the port is missing"),
            ("10.0.0.5", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("localhost:", "port"),
            ("localhost:0", "1 to 65535"),
            ("localhost:99999", "port"),
            ("http://host:70700", "port"),
            ("host:port", "port"),
        ] {
            let fault = Client::new(address, None)
                .err()
                .unwrap_or_else(|| panic!("{address} is taken"))
                .to_string();
            assert!(
                fault.contains(words) && fault.contains(address),
                "{address}: {fault}"
            );
        }
    }
}
