//! What an adapter says of the template that it was trained with, in a file beside its weights: a model is to be asked as it
//! was trained.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::adapter::write_atomically;
use crate::{Error, Result};

const FILE: &str = "training_template.json";

/// The keys of `data` that the text of a prompt follows from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateRecord {
    pub template: String,
    pub template_date: String,
}

impl TemplateRecord {
    pub(crate) fn save(&self, adapter: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::Adapter { path: adapter.into(), fault: e.to_string() })?;
        write_atomically(&adapter.join(FILE), format!("{text}\n").as_bytes())
    }

    /// The record of the adapter in a folder; adapters of other programs have none.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn load(adapter: &Path) -> Result<Option<Self>> {
        let path = adapter.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path)(e)),
        };
        let fault = |e: serde_json::Error| Error::Adapter {
            path: adapter.into(),
            fault: format!("has an unreadable {FILE}: {e}"),
        };
        serde_json::from_str(&text).map(Some).map_err(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_and_a_broken_one_is_named() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(TemplateRecord::load(home.path()).expect("none"), None);
        let record = TemplateRecord { template: "chatml-tools".into(), template_date: "2031-01-02".into() };
        record.save(home.path()).expect("a file");
        assert_eq!(TemplateRecord::load(home.path()).expect("a record"), Some(record));
        std::fs::write(home.path().join(FILE), "{").expect("a file");
        assert!(TemplateRecord::load(home.path()).expect_err("a fault").to_string().contains(FILE));
    }
}
