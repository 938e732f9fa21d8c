use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use qlora_client::console;
use qlora_config::Layers;
use qlora_proto::{GetConfigRequest, ListConfigsRequest, PutConfigRequest};

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::output::{human, json, print, print_exact, print_json};

/// Named configurations on the coordinator. A revision never changes.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Store a file under a name; the same text makes no new revision.
    Put { name: String, file: PathBuf },
    /// Print a configuration, the newest revision by default.
    Get {
        name: String,
        #[arg(long, default_value_t = 0)]
        revision: u64,
    },
    /// List names, or the revisions of one.
    List { name: Option<String> },
}

impl Config {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        let mut client = context.client()?;
        match self {
            Self::Put { name, file } => {
                let yaml = std::fs::read_to_string(file).map_err(CtlError::io(file))?;
                // Here faults carry the name of the file; the coordinator knows only its text.
                Layers { file: Some((file.display().to_string(), yaml.clone())), ..Layers::default() }.resolve()?;
                let request = PutConfigRequest { name: name.clone(), yaml };
                let made = client.configs.put_config(request).await.map_err(context.fault())?.into_inner();
                if context.global.json {
                    print_json(&json::config(&made))?;
                } else {
                    print(format!("{} revision {}", console::line(&made.name), made.revision))?;
                }
            }
            Self::Get { name, revision } => {
                let request = GetConfigRequest { name: name.clone(), revision: *revision };
                let found = client.configs.get_config(request).await.map_err(context.fault())?.into_inner();
                if context.global.json {
                    print_json(&json::config(&found))?;
                } else if std::io::stdout().is_terminal() {
                    print_exact(&console::block(&found.yaml))?;
                } else {
                    // A file or another program gets what was put, to the byte.
                    print_exact(&found.yaml)?;
                }
            }
            Self::List { name } => {
                let request = ListConfigsRequest { name: name.clone().unwrap_or_default() };
                let all = client.configs.list_configs(request).await.map_err(context.fault())?.into_inner().configs;
                if context.global.json {
                    all.iter().try_for_each(|c| print_json(&json::config(c)))?;
                } else {
                    let row = |c: &qlora_proto::ConfigRevision| {
                        vec![c.name.clone(), c.revision.to_string(), c.hash.chars().take(12).collect()]
                    };
                    let rows: Vec<_> = all.iter().map(row).collect();
                    print(human::table(&["NAME", "REVISION", "HASH"], &[1], &rows))?;
                }
            }
        }
        Ok(Exit::Done.into())
    }
}
