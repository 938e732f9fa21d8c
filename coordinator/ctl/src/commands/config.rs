use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use qlora_client::console;
use qlora_config::{Layers, json_schema};
use qlora_proto::words::count;
use qlora_proto::{ListConfigsRequest, PutConfigRequest};
use serde_json::json;

use crate::context::Context;
use crate::error::{CtlError, Exit};
use crate::input::local;
use crate::input::paths::Origin;
use crate::input::resolved::Resolved;
use crate::input::source::{ConfigSource, folder_of, named, read_config};
use crate::input::stored::whole_paths;
use crate::output::{human, json, print, print_exact, print_json};

/// Check configurations, and keep them under names on the coordinator.
///
/// A revision never changes.
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Store a file under a name; the same text makes no new revision.
    ///
    /// Relative paths of `data.train`, `data.eval` and `model.base` are resolved from the file's
    /// folder: what is stored lies in no folder.
    Put {
        /// Letters, digits, '-', '_' and '.', 100 at the most.
        name: String,
        /// The configuration, which must be valid.
        file: PathBuf,
    },
    /// Print every fault of a configuration, and every key that has no effect.
    ///
    /// A fault ends with exit code 3. A file needs no coordinator.
    Check {
        #[command(flatten)]
        source: ConfigSource,
    },
    /// Print a configuration, the newest revision by default.
    Get {
        /// NAME, as `config list` shows it, or NAME@REVISION.
        name: String,
        /// Which revision; 0 is the newest.
        #[arg(long, default_value_t = 0)]
        revision: u64,
    },
    /// List names, or the revisions of one.
    List {
        /// Show the revisions of this one.
        name: Option<String>,
    },
    /// Print the JSON Schema of a configuration, for editors.
    ///
    /// Save it beside a configuration, and name it in the first line of that file, as in
    /// `# yaml-language-server: $schema=config.schema.json`.
    Schema,
}

impl Config {
    pub async fn run(&self, context: &Context) -> Result<ExitCode, CtlError> {
        match self {
            Self::Check { source } => {
                let resolved = source.resolve(context).await?;
                resolved.inputs()?;
                local::look(context, &resolved).await?;
                let resolved = resolved.config;
                if context.global.json {
                    let warnings = json::warnings(resolved.warnings());
                    let config: serde_json::Value =
                        serde_json::from_str(resolved.json()).unwrap_or_default();
                    print_json(
                        &json!({"v": 1, "hash": resolved.hash(), "config": config, "warnings": warnings}),
                    )?;
                } else {
                    context.warn(resolved.warnings());
                    let warnings = resolved.warnings().len() as u64;
                    let found = if warnings > 0 {
                        format!(", {}", count(warnings, "warning"))
                    } else {
                        String::new()
                    };
                    print(format!("{} is valid{found}", console::line(&source.config)))?;
                }
            }
            Self::Put { name, file } => {
                let mut client = context.client()?;
                let yaml = read_config(file)?;
                // Here faults carry the name of the file; the coordinator knows only its text.
                let layers = Layers {
                    file: Some((file.display().to_string(), yaml.clone())),
                    ..Layers::default()
                };
                let resolved = Resolved::new(layers, Origin::Folder(folder_of(file)))?;
                context.warn(resolved.config.warnings());
                let (yaml, changed) = whole_paths(&resolved, yaml)?;
                let request = PutConfigRequest {
                    name: name.clone(),
                    yaml,
                };
                let made = client
                    .configs
                    .put_config(request)
                    .await
                    .map_err(context.fault())?
                    .into_inner();
                for (key, path) in changed {
                    context.say(format!("`{key}` is stored as {}", console::line(&path)));
                }
                if context.global.json {
                    print_json(&json::config(&made))?;
                } else {
                    print(format!(
                        "{} revision {}",
                        console::line(&made.name),
                        made.revision
                    ))?;
                }
            }
            Self::Get { name, revision } => {
                let mut request = named(name)?;
                if *revision > 0 {
                    request.revision = *revision;
                }
                let mut client = context.client()?;
                let found = client
                    .configs
                    .get_config(request)
                    .await
                    .map_err(context.fault())?
                    .into_inner();
                if context.global.json {
                    print_json(&json::config(&found))?;
                } else if std::io::stdout().is_terminal() {
                    print_exact(&console::block(&found.yaml))?;
                } else {
                    // A file or another program gets the bytes that were put.
                    print_exact(&found.yaml)?;
                }
            }
            Self::Schema => print_exact(&format!("{:#}\n", json_schema()))?,
            Self::List { name } => {
                let request = ListConfigsRequest {
                    name: name.clone().unwrap_or_default(),
                };
                let mut client = context.client()?;
                let all = client
                    .configs
                    .list_configs(request)
                    .await
                    .map_err(context.fault())?
                    .into_inner()
                    .configs;
                if context.global.json {
                    all.iter().try_for_each(|c| print_json(&json::config(c)))?;
                } else if let Some(name) = name.as_ref().filter(|_| all.is_empty()) {
                    return Err(CtlError::Refused {
                        message: format!("there is no configuration {name}"),
                        help: "qlora-ctl config list shows what there is",
                        exit: Exit::Refused,
                    });
                } else if all.is_empty() {
                    context.say(
                        "no configurations; store one with: qlora-ctl config put NAME config.yaml",
                    );
                } else {
                    let row = |c: &qlora_proto::ConfigRevision| {
                        vec![
                            c.name.clone(),
                            c.revision.to_string(),
                            c.hash.chars().take(12).collect(),
                        ]
                    };
                    let rows: Vec<_> = all.iter().map(row).collect();
                    let columns = [
                        human::text("NAME", 0),
                        human::number("REVISION", 0),
                        human::word("HASH", 1),
                    ];
                    print(human::table(&columns, &rows))?;
                }
            }
        }
        Ok(Exit::Done.into())
    }
}
