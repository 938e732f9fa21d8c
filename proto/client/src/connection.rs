//! The connection: address, credentials, keep-alive.

use std::path::Path;
use std::time::Duration;

use qlora_access::TokenError;
use qlora_proto::artifact_service_client::ArtifactServiceClient;
use qlora_proto::config_service_client::ConfigServiceClient;
use qlora_proto::event_service_client::EventServiceClient;
use qlora_proto::job_service_client::JobServiceClient;
use qlora_proto::worker_service_client::WorkerServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::credentials::Credentials;

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
    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::Address { .. } => "write --coordinator HOST:PORT, such as 127.0.0.1:7070".into(),
            Self::Token(fault) => fault.help(),
        }
    }
}

/// A channel that brings its credentials.
pub type Service = InterceptedService<Channel, Credentials>;

/// Clients over one connection, which is made when it is needed and again when it broke.
#[derive(Clone)]
pub struct Client {
    pub jobs: JobServiceClient<Service>,
    pub configs: ConfigServiceClient<Service>,
    pub workers: WorkerServiceClient<Service>,
    pub artifacts: ArtifactServiceClient<Service>,
    pub events: EventServiceClient<Service>,
    pub address: String,
    credentials: Credentials,
}

impl Client {
    /// `address` is HOST:PORT or a URL; the token is the first line of `token_file`, else `QLORA_TOKEN`, else the one that
    /// a coordinator of this user on this machine has left for `address`.
    pub fn new(address: &str, token_file: Option<&Path>) -> Result<Self, ConnectError> {
        let endpoint = Endpoint::from_shared(url(address))
            .map_err(|e| ConnectError::Address { address: address.into(), fault: e.to_string() })?;
        let Some(host) = endpoint.uri().host().filter(|host| !host.is_empty()) else {
            return Err(ConnectError::Address { address: address.into(), fault: "the host is missing".into() });
        };
        let credentials = Credentials::new(token_file, host, endpoint.uri().port_u16().unwrap_or(HTTP_PORT))?;
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let service = InterceptedService::new(channel, credentials.clone());
        Ok(Self {
            jobs: JobServiceClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            configs: ConfigServiceClient::new(service.clone()),
            workers: WorkerServiceClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            artifacts: ArtifactServiceClient::new(service.clone()),
            events: EventServiceClient::new(service),
            address: address.to_owned(),
            credentials,
        })
    }

    /// The way out where the coordinator refuses the token: it depends on where the token is from.
    pub fn token_help(&self) -> &'static str {
        self.credentials.help()
    }

    /// Whether a coordinator that starts later may leave the token that is missing now.
    pub fn may_find_token(&self) -> bool {
        !self.credentials.is_given()
    }

    /// The address of the page, with the key that opens it. Without a token the page asks for it.
    pub fn page(&self) -> String {
        let url = url(self.address.trim_end_matches('/'));
        match self.credentials.token() {
            Some(token) => format!("{url}/?token={}", token.page_key()),
            None => format!("{url}/"),
        }
    }
}

/// HOST:PORT or a URL as a URL.
fn url(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}
