use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use qlora_client::console;
use qlora_config::{Layers, json_schema};
use qlora_proto::numbers::whole;
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
    /// Check a configuration; name keys that are wrong or have no effect.
    ///
    /// Faults of the text are told together, then missing files, then what does not fit the model.
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
        #[arg(long, default_value_t = 0, allow_negative_numbers = true, value_parser = whole::<u64>("the number of a revision", 0..))]
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
            Self::Check { source } => check(context, source).await?,
            Self::Put { name, file } => put(context, name, file).await?,
            Self::Get { name, revision } => get(context, name, *revision).await?,
            Self::Schema => print_exact(&format!("{:#}\n", json_schema()))?,
            Self::List { name } => list(context, name.as_deref()).await?,
        }
        Ok(Exit::Done.into())
    }
}

async fn check(context: &Context, source: &ConfigSource) -> Result<(), CtlError> {
    let resolved = source.resolve(context).await?;
    resolved.inputs()?;
    local::look(context, &resolved).await?;
    let resolved = resolved.config;
    if context.global.json {
        let warnings = json::warnings(resolved.warnings());
        let config: serde_json::Value = serde_json::from_str(resolved.json()).unwrap_or_default();
        return print_json(
            &json!({"v": 1, "hash": resolved.hash(), "config": config, "warnings": warnings}),
        );
    }
    context.warn(resolved.warnings());
    let warnings = resolved.warnings().len() as u64;
    let found = if warnings > 0 {
        format!(", {}", count(warnings, "warning"))
    } else {
        String::new()
    };
    print(format!("{} is valid{found}", console::line(&source.config)))
}

async fn put(context: &Context, name: &str, file: &Path) -> Result<(), CtlError> {
    let mut client = context.client().await?;
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
        name: name.to_owned(),
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
        return print_json(&json::config(&made));
    }
    print(format!(
        "{} revision {}",
        console::line(&made.name),
        made.revision
    ))
}

async fn get(context: &Context, name: &str, revision: u64) -> Result<(), CtlError> {
    let mut request = named(name)?;
    if revision > 0 && request.revision > 0 {
        return Err(CtlError::Usage {
            message: format!("`{name}` and --revision {revision} both name a revision"),
            help: "give one of the two".into(),
        });
    }
    request.revision = request.revision.max(revision);
    let found = context
        .client()
        .await?
        .configs
        .get_config(request)
        .await
        .map_err(context.fault())?
        .into_inner();
    if context.global.json {
        print_json(&json::config(&found))
    } else if std::io::stdout().is_terminal() {
        print_exact(&console::block(&found.yaml))
    } else {
        // A file or another program gets the bytes that were put.
        print_exact(&found.yaml)
    }
}

async fn list(context: &Context, name: Option<&str>) -> Result<(), CtlError> {
    let request = ListConfigsRequest {
        name: name.unwrap_or_default().to_owned(),
    };
    let all = context
        .client()
        .await?
        .configs
        .list_configs(request)
        .await
        .map_err(context.fault())?
        .into_inner()
        .configs;
    if let Some(name) = name.filter(|_| all.is_empty()) {
        return Err(CtlError::Refused {
            message: format!("there is no configuration {name}"),
            help: "qlora-ctl config list shows what there is",
            exit: Exit::Refused,
        });
    }
    if context.global.json {
        return all.iter().try_for_each(|c| print_json(&json::config(c)));
    }
    if all.is_empty() {
        context.say("no configurations; store one with: qlora-ctl config put NAME config.yaml");
        return Ok(());
    }
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
    print(human::table(&columns, &rows))
}
