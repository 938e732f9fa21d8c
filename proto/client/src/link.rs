//! Makes the connections of a client: plain, or under TLS to a server that has been verified.
//!
//! How an address of this machine is reached is known once its coordinator has left a record, and
//! that may start after the client. So it is looked up for each connection. Nothing is sent over a
//! TLS connection before the server is verified.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use qlora_access::{Search, Wire};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::{Address, Scheme};
use crate::dial::{self, Io};
use crate::link_fault::{LastFault, LinkFault};
use crate::trust::{HTTP_2, Trust};

/// What TLS answers to those who do not speak it: the type of an alert. HTTP/2 begins with the
/// length of a frame of settings, whose first byte is 0.
const ALERT: u8 = 21;

/// How a connection is made.
enum Way {
    Plain,
    Tls(Arc<ClientConfig>),
    /// As the record of a coordinator on this machine says; without one, as the address does.
    Recorded(Search),
}

/// What the connections of one client have in common.
pub struct Link {
    address: Address,
    way: Way,
    trust: Trust,
    last: LastFault,
}

impl Link {
    /// The way to `address` for a caller that trusts as `trust` says. An address that names no
    /// scheme is of this machine, or `trust` names roots.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(address: Address, trust: Trust) -> Result<Self, rustls::Error> {
        let is_local = qlora_access::is_local(&address.host);
        let recorded = || Way::Recorded(Search::new(&address.host, address.port));
        let way = match address.scheme {
            Scheme::Http => Way::Plain,
            // Named roots may be for other coordinators: here the record knows better.
            Scheme::Unsaid if is_local => recorded(),
            Scheme::Https if is_local && !trust.names_roots() => recorded(),
            Scheme::Https | Scheme::Unsaid => Way::Tls(trust.configured()?),
        };
        Ok(Self {
            address,
            way,
            trust,
            last: LastFault::default(),
        })
    }

    /// Why the connection that was tried last failed, where TLS is the reason.
    pub fn fault(&self) -> Option<LinkFault> {
        self.last.get()
    }

    /// Host and port as requests name them.
    pub fn authority(&self) -> &str {
        &self.address.authority
    }

    /// Whether a connection that is made now is under TLS.
    pub fn is_tls(&self) -> bool {
        !matches!(self.config(), Ok(None))
    }

    /// Whether TLS is asked for where no record says how the coordinator speaks.
    fn asks_for_tls(&self) -> bool {
        self.address.scheme == Scheme::Https || self.trust.names_roots()
    }

    /// Connects.
    ///
    /// # Errors
    /// Nobody is there, or who answers is not the one that is meant.
    pub async fn dial(self: Arc<Self>) -> Result<TokioIo<Stream>, Box<dyn Error + Send + Sync>> {
        self.last.forget();
        let config = self.config()?;
        let (stream, heard): (Box<dyn Io>, Heard) = match config {
            None => (self.plain().await?, Heard::Nothing),
            Some(config) => (Box::new(self.verified(config).await?), Heard::Server),
        };
        Ok(TokioIo::new(Stream {
            stream,
            heard,
            host: self.address.host.clone(),
            last: self.last.clone(),
        }))
    }

    /// A connection without TLS.
    async fn plain(&self) -> io::Result<Box<dyn Io>> {
        let Address { host, port, .. } = &self.address;
        if let Some(dialing) = dial::replaced(host, *port) {
            return dialing.await;
        }
        let stream = dial::tcp(host, *port).await?;
        if matches!(self.way, Way::Recorded(_)) {
            self.hold_here(stream.peer_addr()?.ip(), stream.local_addr()?.ip())?;
        }
        Ok(Box::new(stream))
    }

    /// What was this machine by its name or address may lead elsewhere by now, where nothing goes in
    /// plain text unless the address says so.
    fn hold_here(&self, peer: IpAddr, own: IpAddr) -> io::Result<()> {
        if is_here(peer, own) {
            return Ok(());
        }
        let host = self.address.host.clone();
        Err(self.last.keep(LinkFault::Elsewhere { host }))
    }

    /// The configuration of TLS for a connection that is made now.
    fn config(&self) -> Result<Option<Arc<ClientConfig>>, rustls::Error> {
        let search = match &self.way {
            Way::Plain => return Ok(None),
            Way::Tls(config) => return Ok(Some(config.clone())),
            Way::Recorded(search) => search,
        };
        match search.wire() {
            Some(Wire::Tls { ca }) if !ca.is_empty() => self.trust.trusting(&ca).map(Some),
            Some(Wire::Tls { .. }) => self.trust.configured().map(Some),
            Some(Wire::Plain) if self.address.scheme == Scheme::Unsaid => Ok(None),
            None if !self.asks_for_tls() => Ok(None),
            Some(Wire::Plain) | None => self.trust.configured().map(Some),
        }
    }

    /// A connection under TLS to a server that has been verified.
    async fn verified(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let Address { host, port, .. } = &self.address;
        let stream = dial::tcp(host, *port).await?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| self.last.keep(LinkFault::OtherName { host: host.clone() }))?;
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .map_err(|fault| self.last.sort(fault, host))?;
        if stream.get_ref().1.alpn_protocol() != Some(HTTP_2) {
            return Err(self.last.keep(LinkFault::NoHttp2));
        }
        Ok(stream)
    }
}

/// Whether `peer`, to which a connection leads from `own`, is this machine.
fn is_here(peer: IpAddr, own: IpAddr) -> bool {
    let peer = peer.to_canonical();
    peer.is_loopback() || peer == own.to_canonical()
}

/// What has been heard of the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    Server,
}

/// A connection that writes down why TLS has ended it: a server refuses a client's certificate
/// only after the client takes the connection for made.
pub struct Stream {
    stream: Box<dyn Io>,
    heard: Heard,
    host: String,
    last: LastFault,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if let Err(fault) = ready!(Pin::new(&mut this.stream).poll_read(context, buffer)) {
            return Poll::Ready(Err(this.last.sort(fault, &this.host)));
        }
        let is_first = std::mem::replace(&mut this.heard, Heard::Server) == Heard::Nothing;
        if is_first && buffer.filled().get(before) == Some(&ALERT) {
            return Poll::Ready(Err(this.last.keep(LinkFault::TlsOnly)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::trust::TlsFiles;

    /// What is heard of a server that begins with `said`, and what is known then.
    async fn told(said: &'static [u8]) -> (std::io::Result<usize>, Option<LinkFault>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address");
        let at = listener.local_addr().expect("an address");
        let address = Address::parse(&format!("http://{at}")).expect("an address");
        let trust = Trust::read(&TlsFiles::default()).expect("nothing to read");
        let link = Arc::new(Link::new(address, trust).expect("a link"));
        let serve = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            stream.write_all(said).await.expect("a client that reads");
            stream
        };
        let (dialed, _server) = tokio::join!(link.clone().dial(), serve);
        let mut stream = dialed.expect("a connection").into_inner();
        let mut first = [0; 16];
        (stream.read(&mut first).await, link.fault())
    }

    #[tokio::test]
    async fn a_server_that_speaks_tls_alone_is_known_by_its_alert() {
        let (heard, fault) = told(&[21, 3, 3, 0, 2, 2, 10]).await;
        assert_eq!(fault, Some(LinkFault::TlsOnly));
        let text = heard.expect_err("the end").to_string();
        assert_eq!(text, LinkFault::TlsOnly.to_string());
        // What HTTP/2 begins with.
        let (heard, fault) = told(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        assert_eq!((heard.expect("bytes"), fault), (9, None));
    }

    #[test]
    fn a_connection_leads_to_this_machine_by_loopback_or_to_the_address_that_it_comes_from() {
        for (peer, own, here) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.2", "192.0.2.1", false),
            ("2001:db8::2", "2001:db8::1", false),
        ] {
            let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
            assert_eq!(is_here(ip(peer), ip(own)), here, "{peer} from {own}");
        }
    }
}
