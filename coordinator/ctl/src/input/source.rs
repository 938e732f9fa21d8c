//! Where a configuration comes from: a file, or a name on the coordinator; and the flags over it.

use std::path::{Path, PathBuf};

use clap::Args;
use qlora_config::Layers;
use qlora_proto::GetConfigRequest;

use super::paths::Origin;
use super::resolved::Resolved;
use crate::context::Context;
use crate::error::CtlError;

/// A configuration and what is laid over it.
#[derive(Debug, Args)]
pub struct ConfigSource {
    /// Configuration file; or NAME or NAME@REVISION of one on the coordinator.
    pub config: String,
    /// Set one key, such as lora.r=8; repeatable, overrides the file. Paths start from the current
    /// folder.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigSource {
    /// Reads and checks a file; what is no file is looked up on the coordinator.
    pub async fn resolve(&self, context: &Context) -> Result<Resolved, CtlError> {
        let looks_like_name = !self.config.contains(['/', '\\'])
            && ![".yaml", ".yml", ".json"]
                .iter()
                .any(|end| self.config.ends_with(end));
        if Path::new(&self.config).exists() || !looks_like_name {
            let path = Path::new(&self.config);
            let text = read_config(path)?;
            return self.layers(self.config.clone(), text, Origin::Folder(folder_of(path)));
        }
        let request = named(&self.config)?;
        let found = context.client().await?.configs.get_config(request).await.map_err(|status| match status.code() {
            tonic::Code::NotFound => CtlError::Usage {
                message: format!(
                    "there is no file `{0}` here, and no configuration `{0}` on the coordinator",
                    self.config
                ),
                help: "fix the path; qlora-ctl config list shows the names".into(),
            },
            _ => match context.fault()(status) {
                CtlError::Unreachable { address, fault } => CtlError::Unreachable {
                    address,
                    fault: format!("{fault}; `{}` is no file here, so it is looked up there by its name", self.config),
                },
                other => other,
            },
        })?;
        let found = found.into_inner();
        self.layers(
            format!("{}@{}", found.name, found.revision),
            found.yaml,
            Origin::Stored,
        )
    }

    fn layers(&self, name: String, text: String, origin: Origin) -> Result<Resolved, CtlError> {
        let env = std::env::vars()
            .filter(|(name, _)| name.starts_with("QLORA__"))
            .collect();
        Resolved::new(
            Layers {
                file: Some((name, text)),
                env,
                set: self.set.clone(),
            },
            origin,
        )
    }
}

/// The folder that a file lies in, which is empty for the current one.
pub fn folder_of(file: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).to_owned()
}

/// The text of a configuration file.
pub fn read_config(path: &Path) -> Result<String, CtlError> {
    let bytes = std::fs::read(path).map_err(CtlError::io(path))?;
    let line = |end: usize| bytes[..end].iter().filter(|byte| **byte == b'\n').count() + 1;
    std::str::from_utf8(&bytes)
        .map(str::to_owned)
        .map_err(|e| CtlError::NotText {
            path: path.into(),
            line: line(e.valid_up_to()),
        })
}

/// What `NAME` or `NAME@REVISION` asks for.
pub fn named(text: &str) -> Result<GetConfigRequest, CtlError> {
    // On the wire 0 asks for the newest.
    let Some((name, written)) = text.split_once('@') else {
        return Ok(GetConfigRequest {
            name: text.into(),
            revision: 0,
        });
    };
    let revision = written
        .parse()
        .ok()
        .filter(|&revision| revision > 0)
        .ok_or_else(|| CtlError::Usage {
            message: format!("`{written}` is no revision"),
            help: "revisions count from 1; write NAME@NUMBER, or NAME for the newest".into(),
        })?;
    Ok(GetConfigRequest {
        name: name.into(),
        revision,
    })
}
