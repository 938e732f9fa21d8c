//! The commands that prepare TLS, and what they tell the person to do with the files.

use qlora_access::Token;

use crate::cli::Cli;
use crate::error::StartError;
use crate::tls::{self, Folder};

/// Names and addresses that a certificate of the coordinator always has.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes a CA, a certificate and the first token; what to tell of them.
///
/// # Errors
/// Something is there already, or cannot be written.
pub fn init(cli: &Cli, given: &[String]) -> Result<String, StartError> {
    let state = &cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let folder = Folder::of(state);
    let own = LOOPBACK.map(str::to_owned).into_iter();
    let mut hosts: Vec<String> = own.chain(qlora_access::names()).collect();
    hosts.extend(given.iter().cloned());
    hosts.sort();
    hosts.dedup();
    tls::init(&folder, &hosts)?;
    Token::keep(state)?;
    let allowed: String = given
        .iter()
        .map(|host| format!(" --allow-host {host}"))
        .collect();
    Ok(format!(
        "{ca}\n  give a copy to every machine that calls: --ca FILE or QLORA_CA\n\
         {ca_key}\n  stays here: whoever has it can make certificates\n\
         {server}\n  is this coordinator's own, for {hosts}\n\
         {token}\n  may do everything; make others with qlora-ctl token create\n\
         Start: qlora-coordinator --state-dir {state} --listen 0.0.0.0:7070{allowed}\n\
         Call:  qlora-ctl --coordinator https://HOST:7070 --ca ca.pem --token-file FILE jobs\n",
        ca = folder.ca().certificate.display(),
        ca_key = folder.ca().key.display(),
        server = folder.server().certificate.display(),
        hosts = hosts.join(", "),
        token = Token::path(state).display(),
        state = state.display(),
    ))
}

/// Makes a certificate for the worker `name`; what to tell of it.
///
/// # Errors
/// There is no CA, there is one already, or it cannot be written.
pub fn certify(cli: &Cli, name: &str) -> Result<String, StartError> {
    let state = &cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let folder = Folder::of(state);
    let own = tls::certify(&folder, name)?;
    let ca = folder.ca().certificate;
    Ok(format!(
        "{certificate}\n{key}\n  give both to the worker {name}, with a copy of {ca}\n\
         Start: qlora-coordinator with --tls-client-ca {ca}\n\
         Start: qlora-worker --coordinator https://HOST:7070 --ca ca.pem --cert {name}.pem --key {name}.key --token-file FILE\n",
        certificate = own.certificate.display(),
        key = own.key.display(),
        ca = ca.display(),
    ))
}
