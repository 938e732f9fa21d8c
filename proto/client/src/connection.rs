//! The connection: address, token, trace context.

use std::path::{Path, PathBuf};
use std::time::Duration;

use qlora_proto::artifact_service_client::ArtifactServiceClient;
use qlora_proto::config_service_client::ConfigServiceClient;
use qlora_proto::event_service_client::EventServiceClient;
use qlora_proto::job_service_client::JobServiceClient;
use qlora_proto::worker_service_client::WorkerServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// Configurations and long error texts may be large; artifacts travel in small pieces.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Why no client can be made. Nothing has been sent yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("`{address}` is no address: {fault}")]
    Address { address: String, fault: String },
    #[error("the token file {path} cannot be read: {source}")]
    TokenFile { path: PathBuf, source: std::io::Error },
    #[error("the token file {path} holds no token: its first line is empty")]
    EmptyTokenFile { path: PathBuf },
    #[error("the token holds characters that cannot be sent")]
    Token,
}

impl ConnectError {
    /// The way out.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Address { .. } => "write HOST:PORT, such as 127.0.0.1:7070",
            Self::TokenFile { .. } => {
                "give --token-file (or QLORA_TOKEN_FILE) the path of the coordinator's token file"
            }
            Self::EmptyTokenFile { .. } => "write the coordinator's token into its first line",
            Self::Token => "a token is one line of printable ASCII characters; copy the coordinator's token file",
        }
    }
}

/// Adds the token and the trace context to every call.
#[derive(Clone)]
pub struct Credentials {
    token: Option<MetadataValue<Ascii>>,
}

impl tonic::service::Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.token {
            request.metadata_mut().insert(qlora_proto::AUTHORIZATION, token.clone());
        }
        qlora_telemetry::inject(request.metadata_mut());
        Ok(request)
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
}

impl Client {
    /// `address` is HOST:PORT or a URL; the token is the first line of `token_file`, else `QLORA_TOKEN`.
    pub fn new(address: &str, token_file: Option<&Path>) -> Result<Self, ConnectError> {
        let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|e| ConnectError::Address { address: address.into(), fault: e.to_string() })?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(ConnectError::Address { address: address.into(), fault: "the host is missing".into() });
        }
        let channel = endpoint
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .connect_lazy();
        let service = InterceptedService::new(channel, Credentials { token: token(token_file)? });
        Ok(Self {
            jobs: JobServiceClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            configs: ConfigServiceClient::new(service.clone()),
            workers: WorkerServiceClient::new(service.clone()).max_decoding_message_size(LARGEST_MESSAGE),
            artifacts: ArtifactServiceClient::new(service.clone()),
            events: EventServiceClient::new(service),
            address: address.to_owned(),
        })
    }
}

fn token(file: Option<&Path>) -> Result<Option<MetadataValue<Ascii>>, ConnectError> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|source| ConnectError::TokenFile { path: path.into(), source })?
        }
        None => std::env::var("QLORA_TOKEN").unwrap_or_default(),
    };
    match (text.lines().next().unwrap_or_default().trim(), file) {
        ("", Some(path)) => Err(ConnectError::EmptyTokenFile { path: path.into() }),
        ("", None) => Ok(None),
        (line, _) => format!("Bearer {line}").parse().map(Some).map_err(|_| ConnectError::Token),
    }
}
