//! The commands that prepare TLS, and what they tell the person to do with the files.

use std::io::Write;
use std::path::Path;

use qlora_access::Token;

use crate::cli::{Cli, Command};
use crate::error::StartError;
use crate::tls::{self, Folder};

/// Names and addresses that a certificate of the coordinator always has.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Carries `command` out.
///
/// # Errors
/// Something is there already, or cannot be written.
pub fn run(cli: &Cli, command: &Command) -> Result<(), StartError> {
    let state = cli.state_folder().ok_or(StartError::NoStateFolder)?;
    let text = match command {
        Command::Init { host } => init(&state, host)?,
        Command::Certify { name } => certify(&state, name)?,
    };
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(StartError::Serve)
}

fn init(state: &Path, given: &[String]) -> Result<String, StartError> {
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

fn certify(state: &Path, name: &str) -> Result<String, StartError> {
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
