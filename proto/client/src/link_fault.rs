//! Why the two ends of a connection do not agree on TLS, and where the last such fault is kept.
//!
//! HTTP/2 hands a broken connection's fault on as text, and to some calls not at all. So the
//! connection itself writes the fault down, and whoever reports a failed call looks here.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qlora_codes::Code;
use rustls::{AlertDescription as Alert, CertificateError, InvalidMessage};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkFault {
    #[error("the coordinator's certificate is of a CA that is not trusted here")]
    OtherCa,
    #[error("the coordinator's certificate has expired")]
    Expired,
    #[error("the coordinator's certificate is not valid yet")]
    NotYetValid,
    #[error("the coordinator's certificate is not for the name `{host}`")]
    OtherName { host: String },
    #[error("the coordinator asks for a client certificate")]
    NoCertificate,
    #[error("the coordinator does not take the client certificate ({reason})")]
    CertificateRefused { reason: &'static str },
    #[error("the server does not speak TLS")]
    NotTls,
    #[error("the server speaks TLS, and the call came without")]
    TlsOnly,
    #[error(
        "`{host}` leads to another machine, and does not say whether the connection is encrypted"
    )]
    Elsewhere { host: String },
    #[error("the server does not speak HTTP/2")]
    NoHttp2,
    #[error("the TLS connection failed: {0}")]
    Other(String),
}

impl LinkFault {
    /// `qlora-ctl explain CODE` prints its meaning.
    pub fn code(&self) -> Code {
        Code::Untrusted
    }

    /// The way out.
    pub fn help(&self) -> &'static str {
        match self {
            Self::OtherCa => {
                "give --ca FILE with ca.pem from the folder `tls` of this coordinator's state folder; if that is the file that was given, another server answers at this address"
            }
            Self::Expired => {
                "on the coordinator's machine remove tls/server.pem and tls/server.key from the state folder, run qlora-coordinator init again, and send the coordinator SIGHUP"
            }
            Self::NotYetValid => "set the clocks of both machines",
            Self::OtherName { .. } => {
                "call the coordinator by a name of its certificate, or make one for this name: qlora-coordinator init --host NAME"
            }
            Self::NoCertificate => {
                "give --cert FILE and --key FILE, which qlora-coordinator certify makes"
            }
            Self::CertificateRefused { .. } => {
                "make another one on the coordinator's machine with qlora-coordinator certify"
            }
            Self::NotTls => {
                "start the coordinator with the files of qlora-coordinator init, or write http:// where nobody else can listen in"
            }
            Self::TlsOnly => {
                "write https:// before the address, and give --ca FILE with ca.pem of the coordinator"
            }
            Self::Elsewhere { .. } => {
                "write https:// before the address and give --ca FILE, or write http:// where nobody else can listen in"
            }
            Self::NoHttp2 => "call the coordinator itself, or a proxy that speaks gRPC",
            Self::Other(_) => "look into the coordinator's log",
        }
    }

    /// What a fault of TLS on the way to `host` means.
    pub fn of(fault: &rustls::Error, host: &str) -> Self {
        match fault {
            rustls::Error::InvalidCertificate(fault) => of_certificate(fault, host),
            rustls::Error::AlertReceived(alert) => of_alert(*alert),
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            other => Self::Other(other.to_string()),
        }
    }
}

fn of_certificate(fault: &CertificateError, host: &str) -> LinkFault {
    match fault {
        // CAs of the same name differ by their keys.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => LinkFault::OtherCa,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => LinkFault::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            LinkFault::NotYetValid
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            LinkFault::OtherName { host: host.into() }
        }
        other => LinkFault::Other(other.to_string()),
    }
}

fn of_alert(alert: Alert) -> LinkFault {
    let reason = match alert {
        Alert::CertificateRequired => return LinkFault::NoCertificate,
        Alert::NoApplicationProtocol => return LinkFault::NoHttp2,
        Alert::CertificateExpired => "it has expired",
        Alert::UnknownCA | Alert::DecryptError => "it is of another CA",
        Alert::CertificateRevoked => "it was revoked",
        Alert::BadCertificate | Alert::UnsupportedCertificate | Alert::CertificateUnknown => {
            "it is not one for clients"
        }
        other => return LinkFault::Other(format!("the other end says {other:?}")),
    };
    LinkFault::CertificateRefused { reason }
}

/// The fault of the connection that was tried last.
#[derive(Debug, Clone, Default)]
pub struct LastFault(Arc<Mutex<Option<LinkFault>>>);

impl LastFault {
    pub fn get(&self) -> Option<LinkFault> {
        self.held().clone()
    }

    /// Another connection is tried.
    pub fn forget(&self) {
        *self.held() = None;
    }

    /// Writes `fault` down, and gives it as the error of the connection.
    pub fn keep(&self, fault: LinkFault) -> io::Error {
        *self.held() = Some(fault.clone());
        io::Error::new(ErrorKind::ConnectionAborted, fault)
    }

    /// The same of a fault of TLS; any other passes as it is.
    pub fn sort(&self, fault: io::Error, host: &str) -> io::Error {
        let tls = fault
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match tls.map(|tls| LinkFault::of(tls, host)) {
            Some(known) => self.keep(known),
            None => fault,
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<LinkFault>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_tls_is_told_in_our_words_and_any_other_passes() {
        let last = LastFault::default();
        let of = |fault: rustls::Error| io::Error::new(ErrorKind::InvalidData, fault);
        let cases = [
            (
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
                LinkFault::OtherCa,
            ),
            (
                rustls::Error::InvalidCertificate(CertificateError::NotValidForName),
                LinkFault::OtherName { host: "gpu".into() },
            ),
            (
                rustls::Error::AlertReceived(Alert::CertificateRequired),
                LinkFault::NoCertificate,
            ),
            (
                rustls::Error::AlertReceived(Alert::CertificateExpired),
                LinkFault::CertificateRefused {
                    reason: "it has expired",
                },
            ),
            (
                rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType),
                LinkFault::NotTls,
            ),
        ];
        for (fault, wanted) in cases {
            let told = last.sort(of(fault), "gpu");
            assert_eq!(told.to_string(), wanted.to_string());
            assert_eq!(last.get(), Some(wanted));
        }
        last.forget();
        let other = last.sort(ErrorKind::ConnectionReset.into(), "gpu");
        assert_eq!(other.kind(), ErrorKind::ConnectionReset);
        assert_eq!(last.get(), None);
    }
}
