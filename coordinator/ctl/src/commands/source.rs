//! Where a configuration comes from, and what the paths in it mean: a file's own folder, the
//! current one for flags, and none for what is stored under a name.

use std::path::{Path, PathBuf};

use clap::Args;
use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic, Layers, Place, ResolvedConfig};
use qlora_proto::{FileRole, GetConfigRequest};

use super::base;
use super::checked::checked;
use crate::context::Context;
use crate::error::CtlError;

/// The keys that name files of rows, with the roles of these.
pub const INPUTS: [(FileRole, &str); 2] = [
    (FileRole::Train, "data.train"),
    (FileRole::Eval, "data.eval"),
];

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

/// Where relative paths of a configuration's own text start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Folder(PathBuf),
    /// It is stored under a name, and lies in no folder.
    Stored,
}

/// A configuration with what is needed to find its files.
pub struct Resolved {
    pub config: ResolvedConfig,
    /// What was written where.
    pub layers: Layers,
    pub origin: Origin,
}

impl Resolved {
    /// Checks `layers`, and finds out where the name of the model leads.
    pub fn new(layers: Layers, origin: Origin) -> Result<Self, CtlError> {
        let config = checked(&layers)?;
        let config = match base::whole(config.config(), &layers, &origin)? {
            Some(base) => config.with_base(base)?,
            None => config,
        };
        Ok(Self {
            config,
            layers,
            origin,
        })
    }

    /// Where the files of rows are, by their roles; each is there.
    pub fn inputs(&self) -> Result<Vec<(FileRole, PathBuf)>, CtlError> {
        let data = &self.config.config().data;
        let present = INPUTS.iter().zip([&data.train, &data.eval]);
        let present =
            present.filter_map(|((role, key), path)| Some((*role, *key, path.as_deref()?)));
        present
            .map(|(role, key, path)| Ok((role, self.input(key, path)?)))
            .collect()
    }

    fn input(&self, key: &'static str, path: &str) -> Result<PathBuf, CtlError> {
        let place = self.layers.place_of(key);
        let Some(path) = located(place.as_ref(), &self.origin, path) else {
            return Err(ConfigErrors::from(Diagnostic {
                code: Code::InvalidValue,
                message: format!("`{key}` is `{path}`, and a stored configuration lies in no folder that this could start from"),
                place,
                help: Some(format!(
                    "give --set {key}=FILE, or store the file again, which writes whole paths: qlora-ctl config put NAME FILE"
                )),
            })
            .into());
        };
        if path.exists() {
            return Ok(path);
        }
        Err(CtlError::NoInput {
            key,
            place: place.map(|p| p.to_string()).unwrap_or_default(),
            path,
        })
    }
}

/// Where `path` leads, which was written at `place`: in the configuration it starts from the
/// configuration's folder; what a flag or a variable gives starts, as every path on a command line,
/// from the current one. None where it starts nowhere.
pub fn located(place: Option<&Place>, origin: &Origin, path: &str) -> Option<PathBuf> {
    match (place, origin) {
        (Some(Place::Named(_)), _) => Some(PathBuf::from(path)),
        (_, Origin::Folder(folder)) => Some(folder.join(path)),
        (_, Origin::Stored) => Some(PathBuf::from(path)).filter(|path| path.is_absolute()),
    }
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
        let found = context.client()?.configs.get_config(request).await.map_err(|status| match status.code() {
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
