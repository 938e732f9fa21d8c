//! What is under the requests of a connection: TCP alone, or TLS.

use std::io::{Error, ErrorKind, Result};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::connection::Connection;

/// The configuration that the next connection begins with.
pub type Configs = watch::Receiver<Arc<ServerConfig>>;

/// The first byte of whatever TLS begins with.
const HANDSHAKE: u8 = 22;
/// What HTTP/2 without TLS begins with.
const HTTP_2: &[u8] = b"PRI";
/// A fatal alert: a message was not expected. Clients that meant to speak without TLS know it.
const ALERT: &[u8] = &[21, 3, 3, 0, 2, 2, 10];
/// For browsers and scrapers.
const HTTPS_ONLY: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
Content-Type: text/plain\r\n\
Content-Length: 49\r\n\
Connection: close\r\n\r\n\
this address speaks TLS: write https:// before it";
/// What a refused peer may still send: it is read so that the refusal reaches it.
const REST: u64 = 64 << 10;

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The stream that requests come by, after a handshake where there is TLS.
///
/// # Errors
/// The peer speaks no TLS, or shows a certificate that is not taken. It has been told.
pub async fn secure(
    stream: TcpStream,
    tls: Option<&Configs>,
    connection: &Connection,
) -> Result<Box<dyn Io>> {
    let Some(tls) = tls else {
        return Ok(Box::new(stream));
    };
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if first != [HANDSHAKE] {
        return Err(refuse_plain(stream).await?);
    }
    let config = tls.borrow().clone();
    let accepted = TlsAcceptor::from(config).accept(stream).into_fallible();
    match accepted.await {
        Ok(stream) => {
            let is_certified = stream.get_ref().1.peer_certificates().is_some();
            connection.encrypted(is_certified);
            Ok(Box::new(stream))
        }
        // The alert that says why has been sent.
        Err((fault, stream)) => {
            hear_out(stream).await?;
            Err(fault)
        }
    }
}

/// Tells a peer that speaks without TLS to speak with it.
async fn refuse_plain(mut stream: TcpStream) -> Result<Error> {
    let mut begun = [0; HTTP_2.len()];
    stream.read_exact(&mut begun).await?;
    let answer = if begun == HTTP_2 { ALERT } else { HTTPS_ONLY };
    stream.write_all(answer).await?;
    hear_out(stream).await?;
    Ok(Error::new(
        ErrorKind::InvalidData,
        "the peer does not speak TLS",
    ))
}

/// Ends a connection so that the other end reads the last words: where bytes of its own lie unread,
/// the system drops them.
async fn hear_out(mut stream: TcpStream) -> Result<()> {
    stream.shutdown().await?;
    copy(&mut stream.take(REST), &mut sink()).await?;
    Ok(())
}
