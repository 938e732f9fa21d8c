//! Makes a CA and the certificates that it signs.
//!
//! A certificate cannot be revoked. It ends with its time, and a worker is kept out by its token.

use std::path::Path;

use qlora_access::{PemError, pem};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::error::TlsError;
use super::folder::{Folder, Pair};

/// Days for which a CA is valid, and a certificate that it signs.
const CA_DAYS: i64 = 3650;
const DAYS: i64 = 365;
/// Clocks of other machines may be behind by so much.
const BEHIND: Duration = Duration::hours(1);

/// Makes the CA of a state folder where there is none, and a certificate of the coordinator for
/// `hosts`.
///
/// # Errors
/// The coordinator has a certificate already, or the files cannot be written.
pub fn init(folder: &Folder, hosts: &[String]) -> Result<(), TlsError> {
    let (ca, server) = (folder.ca(), folder.server());
    // Before anything is made: what is there may be in use.
    if let Some(path) = server.present() {
        return Err(TlsError::Exists { path: path.into() });
    }
    if ca.present().is_none() {
        make_ca(&ca)?;
    }
    let mut params = params("qlora-coordinator", DAYS, hosts)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    sign(&ca, &params, &server)
}

/// Makes a certificate that a worker shows.
///
/// # Errors
/// There is no CA, a certificate of this name is there already, or it cannot be written.
pub fn certify(folder: &Folder, name: &str) -> Result<Pair, TlsError> {
    let (ca, own) = (folder.ca(), folder.worker(name));
    if ca.present().is_none() {
        return Err(TlsError::NoCa {
            folder: folder.path().into(),
        });
    }
    let mut params = params(name, DAYS, &[])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    sign(&ca, &params, &own)?;
    Ok(own)
}

fn make_ca(ca: &Pair) -> Result<(), TlsError> {
    let key = KeyPair::generate()?;
    // CAs of several coordinators are told apart by their names.
    let number: String = key
        .public_key_raw()
        .iter()
        .rev()
        .take(4)
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    let mut params = params(&format!("qlora CA {number}"), CA_DAYS, &[])?;
    // It signs certificates, and no further CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = params.self_signed(&key)?;
    ca.write(&certificate.pem(), &key.serialize_pem())
}

fn sign(ca: &Pair, params: &CertificateParams, own: &Pair) -> Result<(), TlsError> {
    let issuer = issuer(&ca.certificate, &ca.key)?;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    own.write(&certificate.pem(), &key.serialize_pem())
}

fn issuer(certificate: &Path, key: &Path) -> Result<Issuer<'static, KeyPair>, TlsError> {
    let own = KeyPair::from_pem(&pem::key_text(key)?).map_err(|e| PemError::key(key, &e))?;
    let issuer = Issuer::from_ca_cert_pem(&pem::text(certificate)?, own);
    Ok(issuer.map_err(|e| PemError::of_a_ca(certificate, &e))?)
}

/// What all certificates have: a name, hosts, and a time.
fn params(name: &str, days: i64, hosts: &[String]) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - BEHIND;
    params.not_after = now + Duration::days(days);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}
