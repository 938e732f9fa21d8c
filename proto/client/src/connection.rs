//! The connection: address, credentials, keep-alive.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qlora_access::TokenError;
use qlora_codes::Code;
use qlora_proto::LinkPageRequest;
use qlora_proto::artifact_service_client::ArtifactServiceClient;
use qlora_proto::config_service_client::ConfigServiceClient;
use qlora_proto::event_service_client::EventServiceClient;
use qlora_proto::job_service_client::JobServiceClient;
use qlora_proto::token_service_client::TokenServiceClient;
use qlora_proto::worker_service_client::WorkerServiceClient;
use tonic::Status;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Endpoint, Uri};

use crate::address::{Address, Scheme, several};
use crate::credentials::Credentials;
use crate::link::Link;
use crate::link_fault::LinkFault;
use crate::route::{Place, Route};
use crate::trust::{TlsFileError, TlsFiles, Trust};

/// Configurations and long error texts may be large; artifacts travel in small pieces.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Silence of a connection after which it is asked whether the other end is there, and how long the
/// answer may take. A connection that a network has forgotten, or whose other end is gone without a
/// word, is left before a worker with a lease of 24 s or more has to stop: it has at least 0.55 of
/// its lease left when its connection breaks, since two held answers fit into it.
const PING: Duration = Duration::from_secs(4);
const PONG: Duration = Duration::from_secs(7);

/// Why no client can be made. Nothing has been sent yet.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("`{address}` is no address: {fault}")]
    Address { address: String, fault: String },
    #[error(
        "`{address}` is on another machine, and does not say whether the connection is encrypted"
    )]
    Unsaid { address: String },
    #[error("`{address}` is called without TLS, and files for TLS were given")]
    NoTls { address: String },
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("{0}")]
    Tls(#[from] TlsFileError),
}

impl ConnectError {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        match self {
            Self::Tls(_) => Code::Certificate,
            Self::Address { .. } | Self::Unsaid { .. } | Self::NoTls { .. } | Self::Token(_) => {
                Code::Connection
            }
        }
    }

    /// The same of an address that was given with others: one of which nothing stands there is
    /// called by what was given.
    fn within(self, given: &str) -> Self {
        match self {
            Self::Address { address, fault } if address.is_empty() => Self::Address {
                address: given.into(),
                fault,
            },
            other => other,
        }
    }

    /// The way out.
    pub fn help(&self) -> String {
        match self {
            Self::Address { .. } => "write --coordinator HOST:PORT, such as 127.0.0.1:7070".into(),
            Self::Unsaid { address } => format!(
                "write https://{address}, and give --ca FILE with ca.pem of the coordinator; http://{address} sends everything as it is, the token too"
            ),
            Self::NoTls { .. } => "write https:// before the address".into(),
            Self::Token(fault) => fault.help(),
            Self::Tls(fault) => fault.help(),
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
    /// As [`Self::with_tls`], where no file for TLS was given.
    ///
    /// # Errors
    /// The address or the token cannot be used.
    pub fn new(address: &str, token_file: Option<&Path>) -> Result<Self, ConnectError> {
        Self::with_tls(address, token_file, &TlsFiles::default())
    }

    /// `address` is HOST:PORT of this machine, or a URL, or several of them with commas; the token
    /// is the first line of `token_file`, else `QLORA_TOKEN`, else the one that a coordinator of
    /// this user on this machine has left for the address that is called.
    ///
    /// # Errors
    /// An address, the token or a file for TLS cannot be used.
    pub fn with_tls(
        address: &str,
        token_file: Option<&Path>,
        tls: &TlsFiles,
    ) -> Result<Self, ConnectError> {
        let places: Result<Vec<Place>, ConnectError> = several(address)
            .map(|one| place(one, token_file, tls))
            .collect();
        let route = Route::new(places.map_err(|fault| fault.within(address))?);
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

    /// Why the connection that was tried last failed, where TLS is the reason. A failed call tells
    /// it in no form that a program could read.
    pub fn link_fault(&self) -> Option<LinkFault> {
        self.route.current().link.fault()
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

    /// A link that opens the page once, within minutes, for what the role of the token allows.
    ///
    /// # Errors
    /// The coordinator does not answer, or refuses the token.
    pub async fn page(&mut self) -> Result<String, Status> {
        let made = self.tokens.link_page(LinkPageRequest {}).await?;
        let key = made.into_inner().key;
        let current = self.route.current();
        let scheme = if current.link.is_tls() {
            "https"
        } else {
            "http"
        };
        Ok(format!(
            "{scheme}://{}/?key={key}",
            current.link.authority()
        ))
    }
}

/// The address, where it says all that is needed.
fn parse(address: &str, tls: &TlsFiles) -> Result<Address, ConnectError> {
    let parsed = Address::parse(address).map_err(|fault| ConnectError::Address {
        address: address.into(),
        fault,
    })?;
    let has_files = *tls != TlsFiles::default();
    match parsed.scheme {
        Scheme::Http if has_files => Err(ConnectError::NoTls {
            address: address.into(),
        }),
        Scheme::Unsaid if tls.ca.is_none() && !qlora_access::is_local(&parsed.host) => {
            Err(ConnectError::Unsaid {
                address: address.into(),
            })
        }
        _ => Ok(parsed),
    }
}

/// What the channel calls. The connector decides on TLS, so that none is asked of the channel.
fn endpoint(address: &Address) -> Result<Endpoint, tonic::transport::Error> {
    let authority = &address.authority;
    let endpoint = Endpoint::from_shared(format!("http://{authority}"))?;
    let origin = format!("https://{authority}").parse::<Uri>();
    Ok(match (address.scheme, origin) {
        (Scheme::Https, Ok(origin)) => endpoint.origin(origin),
        _ => endpoint,
    })
}

/// One of the addresses; nothing is sent.
fn place(address: &str, token_file: Option<&Path>, tls: &TlsFiles) -> Result<Place, ConnectError> {
    let parsed = parse(address, tls)?;
    let endpoint = endpoint(&parsed).map_err(|e| ConnectError::Address {
        address: address.into(),
        fault: e.to_string(),
    })?;
    let trust = Trust::read(tls)?;
    let credentials = Credentials::new(token_file, &parsed.host, parsed.port)?;
    let link = Arc::new(Link::new(parsed, trust).map_err(TlsFileError::Setup)?);
    let dialed = link.clone();
    let connector = tower::service_fn(move |_: Uri| dialed.clone().dial());
    let channel = endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector);
    Ok(Place {
        address: address.to_owned(),
        service: InterceptedService::new(channel, credentials.clone()),
        credentials,
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_names_its_port_and_one_that_is_none_is_refused_by_name() {
        for address in [
            "127.0.0.1:7070",
            "localhost:1",
            "[::1]:7070",
            "http://host:7070",
            "http://proxy",
            "https://[::1]:7070",
            "http://one:7070, https://two:7070",
        ] {
            assert!(Client::new(address, None).is_ok(), "{address}");
        }
        for (address, words) in [
            ("ftp://host:7070", "only http and https"),
            ("localhost", "the port is missing"),
            ("10.0.0.5", "the port is missing"),
            ("[::1]", "the port is missing"),
            ("localhost:", "port"),
            ("localhost:0", "1 to 65535"),
            ("localhost:99999", "port"),
            ("http://host:70700", "port"),
            ("host:port", "port"),
            ("127.0.0.1:7070,", "behind a comma"),
            (",127.0.0.1:7070", "before"),
            ("https://host:7070/foo", "no path"),
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

    #[tokio::test]
    async fn an_address_of_another_machine_says_whether_it_is_encrypted() {
        for address in ["192.0.2.1:7070", "gpu.example.com:7070"] {
            let fault = Client::new(address, None).err().expect("a refusal");
            assert!(matches!(fault, ConnectError::Unsaid { .. }), "{fault}");
            let help = fault.help();
            assert!(help.contains(&format!("https://{address}")), "{help}");
            assert!(help.contains(&format!("http://{address}")), "{help}");
            assert!(Client::new(&format!("http://{address}"), None).is_ok());
        }
    }

    #[tokio::test]
    async fn files_for_tls_and_an_address_without_it_contradict_each_other() {
        let tls = TlsFiles {
            ca: Some("ca.pem".into()),
            ..TlsFiles::default()
        };
        let fault = Client::with_tls("http://192.0.2.1:7070", None, &tls)
            .err()
            .expect("a refusal");
        assert!(matches!(fault, ConnectError::NoTls { .. }), "{fault}");
        let fault = Client::with_tls("192.0.2.1:7070", None, &tls)
            .err()
            .expect("no such file");
        assert_eq!(fault.code(), Code::Certificate);
    }
}
