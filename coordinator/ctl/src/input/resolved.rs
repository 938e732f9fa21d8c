//! A configuration that is checked, with what was written where: its files can be found.

use std::path::PathBuf;

use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic, Layers, ResolvedConfig};
use qlora_proto::FileRole;

use super::base;
use super::checked::checked;
use super::paths::{Origin, located};
use crate::error::CtlError;

/// The keys that name files of rows, with the roles of these.
pub const INPUTS: [(FileRole, &str); 2] = [
    (FileRole::Train, "data.train"),
    (FileRole::Eval, "data.eval"),
];

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
