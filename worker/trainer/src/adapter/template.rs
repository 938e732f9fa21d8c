//! The chat template beside an adapter's weights: a model must be asked as it was trained.
//!
//! The text lies where transformers reads it. No file of transformers has a place for the date that
//! the template was given, so the date lies in a file of our own.

use std::io::ErrorKind;
use std::path::Path;

use qlora_data::{ChatTemplate, SpecialTokens, Templates, strict};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::weights::plain;
use crate::{Error, Result, partial};

/// The file that transformers reads a template from.
pub(crate) const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const RECORD: &str = "training_template.json";
/// Where other programs save it.
const SETTINGS: [&str; 2] = ["tokenizer_config.json", "chat_template.json"];

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

/// The template beside an adapter, and the file that it lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub file: &'static str,
    /// Jinja text.
    pub text: String,
}

impl Own {
    /// The template of the adapter in `folder`, ready to render.
    ///
    /// # Errors
    /// It does not compile; the file is named.
    pub fn compiled(&self, folder: &Path, special: SpecialTokens) -> Result<ChatTemplate> {
        ChatTemplate::new(&self.text, special).map_err(|e| Error::Adapter {
            path: folder.into(),
            fault: format!(
                "has a chat template in {} that is not usable: {e}",
                self.file
            ),
        })
    }

    /// What a person should hear where the adapter in `folder` is used with the template that
    /// `wanted` names, which is `used`, on a model with the templates `base`; nothing where all
    /// are one, or where the adapter is ours and its own is taken, as is documented.
    pub fn note(
        &self,
        folder: &Path,
        wanted: &str,
        used: &ChatTemplate,
        base: Option<&Templates>,
    ) -> Option<String> {
        let file = self.file;
        if wanted != "auto" {
            return (used.source() != self.text).then(|| {
                format!(
                    "the adapter has another chat template, in {file}, than the one that is asked for; --template auto takes the adapter's"
                )
            });
        }
        let of_base = base.and_then(|own| own.iter().find(|(name, _)| *name == "default"));
        let differs = of_base.is_some_and(|(_, text)| text != self.text);
        (differs && !folder.join(RECORD).exists()).then(|| {
            format!(
                "the chat template is the adapter's, in {file}, and differs from the base's; --template default takes the base's"
            )
        })
    }
}

/// The template that the adapter in `folder` was trained with, where it says so: in a file of its
/// own, or as older releases of transformers have it, in the tokenizer's settings.
///
/// # Errors
/// It is there and cannot be read, or only templates for other uses are there.
pub fn own(folder: &Path) -> Result<Option<Own>> {
    if let Some(text) = read(&folder.join(TEMPLATE))? {
        let file = TEMPLATE;
        return Ok(Some(Own { file, text }));
    }
    for file in SETTINGS {
        let Some(text) = read(&folder.join(file))? else {
            continue;
        };
        let fault = |fault: String| Error::Adapter {
            path: folder.into(),
            fault,
        };
        let settings = strict::parse_settings(&text)
            .map_err(|e| fault(format!("has an unreadable {file}: {e}")))?;
        let setting = &settings["chat_template"];
        if setting.is_null() {
            continue;
        }
        let text = default_of(setting).ok_or_else(|| {
            fault(format!(
                "has a `chat_template` in {file} that is no text and has none named `default`; put the one that it was trained with into {TEMPLATE}"
            ))
        })?;
        let text = text.to_owned();
        return Ok(Some(Own { file, text }));
    }
    Ok(None)
}

/// The text of `setting`, which is one, or a list or an object of named ones.
fn default_of(setting: &Value) -> Option<&str> {
    match setting {
        Value::String(text) => Some(text),
        Value::Array(all) => all
            .iter()
            .find(|one| one["name"] == "default")
            .and_then(|one| one["template"].as_str()),
        Value::Object(all) => all.get("default").and_then(Value::as_str),
        _ => None,
    }
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
    match plain::text(path) {
        Ok(text) => Ok(Some(strict::unmarked(&text).to_owned())),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(folder: &Path) -> Result<Option<String>> {
        Ok(own(folder)?.map(|own| own.text))
    }

    #[test]
    fn a_template_is_found_where_other_programs_save_it() {
        let list = r#"{"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}]}"#;
        for (file, content, wanted) in [
            (
                "tokenizer_config.json",
                r#"{"chat_template": "c"}"#,
                Some("c"),
            ),
            ("tokenizer_config.json", list, Some("d")),
            (
                "chat_template.json",
                r#"{"chat_template": {"default": "e"}}"#,
                Some("e"),
            ),
            ("tokenizer_config.json", r#"{"chat_template": null}"#, None),
            ("tokenizer_config.json", r#"{"eos_token": "x"}"#, None),
        ] {
            let home = tempfile::tempdir().expect("a folder");
            fs::write(home.path().join(file), content).expect("a file");
            let found = own(home.path()).expect("a template");
            let wanted = wanted.map(|text| Own {
                file,
                text: text.into(),
            });
            assert_eq!(found, wanted, "{content}");
            // A file of its own stands before them.
            fs::write(home.path().join(TEMPLATE), "own").expect("a file");
            assert_eq!(text(home.path()).expect("a text").as_deref(), Some("own"));
        }
        for content in [
            r#"{"chat_template": 5}"#,
            r#"{"chat_template": [{"name": "rag", "template": "r"}]}"#,
            "{",
        ] {
            let home = tempfile::tempdir().expect("a folder");
            fs::write(home.path().join("tokenizer_config.json"), content).expect("a file");
            let told = own(home.path()).expect_err(content).to_string();
            assert!(told.contains("tokenizer_config.json"), "{told}");
        }
    }

    #[test]
    fn a_template_that_does_not_compile_is_named_with_its_file() {
        for file in [TEMPLATE, "tokenizer_config.json"] {
            let broken = Own {
                file,
                text: "{{ bad".into(),
            };
            let told = broken.compiled(Path::new("lora"), SpecialTokens::default());
            let told = told.expect_err("a fault").to_string();
            assert!(told.contains("lora") && told.contains(file), "{told}");
        }
    }

    #[test]
    fn a_difference_between_two_templates_is_told_with_the_way_to_choose() {
        let home = tempfile::tempdir().expect("a folder");
        let special = SpecialTokens::default;
        let own = Own {
            file: TEMPLATE,
            text: "{{ 1 }}".into(),
        };
        let used = own.compiled(home.path(), special()).expect("a template");
        let other = ChatTemplate::new("{{ 2 }}", special()).expect("a template");
        let [same, differing] = ["{{ 1 }}", "{{ 2 }}"].map(|text| Templates::from(text.to_owned()));
        let note = |wanted: &str, used, base| own.note(home.path(), wanted, used, base);
        assert_eq!(note("auto", &used, Some(&same)), None);
        assert_eq!(note("auto", &used, None), None);
        assert_eq!(note("{{ 1 }}", &used, Some(&differing)), None);
        let told = note("auto", &used, Some(&differing)).expect("a note");
        assert!(told.contains("--template default"), "{told}");
        let told = note("{{ 2 }}", &other, Some(&differing)).expect("a note");
        assert!(told.contains("--template auto"), "{told}");
        fs::write(home.path().join(RECORD), "{}").expect("a file");
        assert_eq!(note("auto", &used, Some(&differing)), None);
    }

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
