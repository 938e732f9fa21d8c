//! A configuration in which every check has passed.

use qlora_codes::Code;
use sha2::{Digest, Sha256};

use crate::diagnostic::{ConfigErrors, Diagnostic, Place, Warning};
use crate::layer::{list_for_section, path_of};
use crate::schema::TrainingConfig;
use crate::validate::validate;

/// A configuration in which every check has passed, together with the hash of its canonical form.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedConfig {
    config: TrainingConfig,
    json: String,
    hash: String,
    warnings: Vec<Warning>,
}

impl ResolvedConfig {
    pub fn config(&self) -> &TrainingConfig {
        &self.config
    }

    /// The exact configuration as JSON: what a job records.
    pub fn json(&self) -> &str {
        &self.json
    }

    /// What was written and has no effect. A configuration that is read back has none: nobody wrote
    /// it.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// SHA-256 of [`Self::json`], in hex.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Reads back what [`Self::json`] wrote, checking it again.
    pub fn from_json(json: &str) -> Result<Self, ConfigErrors> {
        let unread = |e: serde_json::Error| Diagnostic {
            code: Code::RecordedConfig,
            message: format!("the recorded configuration cannot be read: {e}"),
            place: None,
            help: Some("submit the job again with this version of qlora-ctl".into()),
        };
        // serde takes a list for a section, whose values stand in the order of the keys.
        let sections: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(json).map_err(unread)?;
        if let Some((section, _)) = sections.iter().find(|(_, value)| value.is_array()) {
            return Err(list_for_section(section).into());
        }
        let config: TrainingConfig = serde_json::from_str(json).map_err(unread)?;
        Self::check(config, &|_| None)
    }

    /// The same with `base` as the model, for callers who know where its name leads.
    ///
    /// # Errors
    /// Those of [`Self::from_json`].
    pub fn with_base(self, base: String) -> Result<Self, ConfigErrors> {
        let Self {
            mut config,
            warnings,
            ..
        } = self;
        config.model.base = Some(base);
        Ok(Self {
            warnings,
            ..Self::check(config, &|_| None)?
        })
    }

    /// Checks `config`, whose keys were written at `place`.
    pub(crate) fn check(
        config: TrainingConfig,
        place: &dyn Fn(&[String]) -> Option<Place>,
    ) -> Result<Self, ConfigErrors> {
        let mut faults: Vec<_> = validate(&config)
            .into_iter()
            .map(|fault| Diagnostic {
                code: fault.code,
                message: fault.message,
                place: place(&path_of(fault.key)),
                help: fault.help,
            })
            .collect();
        faults.sort_by_key(Diagnostic::position);
        if !faults.is_empty() {
            return Err(ConfigErrors(faults));
        }
        let json = serde_json::to_string(&config).map_err(|e| Diagnostic {
            code: Code::RecordedConfig,
            message: format!("the configuration cannot be written as JSON: {e}"),
            place: None,
            help: None,
        })?;
        let hash = hex::encode(Sha256::digest(json.as_bytes()));
        Ok(Self {
            config,
            json,
            hash,
            warnings: Vec::new(),
        })
    }

    /// The same with `warnings`.
    pub(crate) fn warned(self, warnings: Vec<Warning>) -> Self {
        Self { warnings, ..self }
    }
}
