//! The chat template beside an adapter's weights: a model must be asked as it was trained.
//!
//! The text lies where transformers reads it. No file of transformers has a place for the date that
//! the template was given, so the date lies in a file of our own.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, partial};

/// The file that transformers reads a template from.
pub(crate) const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const RECORD: &str = "training_template.json";

/// The template that adapters were trained with.
#[derive(Debug, Clone, Copy)]
pub struct TrainedWith<'a> {
    /// Jinja text.
    pub text: &'a str,
    /// `data.template_date`.
    pub date: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Record {
    template_date: String,
}

pub(super) fn save(template: TrainedWith<'_>, folder: &Path) -> Result<()> {
    let record = Record {
        template_date: template.date.to_owned(),
    };
    let text = serde_json::to_string_pretty(&record).map_err(|e| Error::Adapter {
        path: folder.into(),
        fault: e.to_string(),
    })?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        partial::write(&path, text.as_bytes()).map_err(Error::io(path))
    };
    write(RECORD, &format!("{text}\n"))?;
    write(TEMPLATE, template.text)
}

/// Jinja text of the template that the adapter in `folder` was trained with, where it says so.
///
/// # Errors
/// It is there and cannot be read.
pub fn text(folder: &Path) -> Result<Option<String>> {
    read(&folder.join(TEMPLATE))
}

/// The date that the template was given; adapters of other programs say none.
///
/// # Errors
/// It is there and cannot be read.
pub fn date(folder: &Path) -> Result<Option<String>> {
    let Some(text) = read(&folder.join(RECORD))? else {
        return Ok(None);
    };
    let fault = |e: serde_json::Error| Error::Adapter {
        path: folder.into(),
        fault: format!("has an unreadable {RECORD}: {e}"),
    };
    serde_json::from_str(&text)
        .map(|record: Record| Some(record.template_date))
        .map_err(fault)
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(qlora_data::strict::unmarked(&text).to_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_date_are_read_back_and_a_broken_record_is_named() {
        let home = tempfile::tempdir().expect("a folder");
        assert_eq!(
            (
                text(home.path()).expect("none"),
                date(home.path()).expect("none")
            ),
            (None, None)
        );
        save(
            TrainedWith {
                text: "{{ 1 }}",
                date: "2031-01-02",
            },
            home.path(),
        )
        .expect("two files");
        assert_eq!(
            text(home.path()).expect("a text").as_deref(),
            Some("{{ 1 }}")
        );
        assert_eq!(
            date(home.path()).expect("a date").as_deref(),
            Some("2031-01-02")
        );
        fs::write(home.path().join(RECORD), "{").expect("a file");
        assert!(
            date(home.path())
                .expect_err("a fault")
                .to_string()
                .contains(RECORD)
        );
    }
}
