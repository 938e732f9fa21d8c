//! The chat template beside an adapter's weights: a model must be asked as it was trained.
//!
//! The text lies where transformers reads it. No file of transformers has a place for the date that
//! the template was given, so the date lies in a file of our own.

use std::path::Path;
use std::{fs, io};

use qlora_data::{ChatTemplate, SpecialTokens, Templates, strict};
use serde::{Deserialize, Serialize};

use super::files;
use crate::{Error, Result, partial};

/// The file that transformers reads a template from.
pub(crate) const TEMPLATE: &str = "chat_template.jinja";
pub(crate) const RECORD: &str = "training_template.json";
/// The folder that transformers reads further ones from, each under a name.
pub(crate) const ADDITIONAL: &str = "additional_chat_templates";
/// Where other programs save them.
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

/// The templates beside an adapter, and the file that the one without a name lies in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    pub file: &'static str,
    /// One is called `default`.
    pub templates: Templates,
}

impl Own {
    /// Those of `templates`, which lie in `file` of the adapter in `folder`.
    ///
    /// # Errors
    /// Only templates for other uses are among them.
    fn new(folder: &Path, file: &'static str, templates: Templates) -> Result<Self> {
        if templates.taken(false).is_some() {
            return Ok(Self { file, templates });
        }
        Err(Error::Adapter {
            path: folder.into(),
            fault: format!(
                "has chat templates in {file} and none named `default`; put the one that it was trained with into {TEMPLATE}"
            ),
        })
    }

    /// Jinja text for a conversation without tools.
    pub fn text(&self) -> &str {
        self.templates.taken(false).unwrap_or_default()
    }

    /// The templates of the adapter in `folder`, ready to render.
    ///
    /// # Errors
    /// One does not compile; the file is named.
    pub fn compiled(&self, folder: &Path, special: SpecialTokens) -> Result<ChatTemplate> {
        ChatTemplate::of(&self.templates, special).map_err(|e| Error::Adapter {
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
            // One that is asked for is taken for every conversation.
            let is_used = |tools| self.templates.taken(tools) == Some(used.source());
            return (![false, true].into_iter().all(is_used)).then(|| {
                format!(
                    "the adapter has another chat template, in {file}, than the one that is asked for; --template auto takes the adapter's"
                )
            });
        }
        let differs = |tools| {
            let of_base = base.and_then(|base| base.taken(tools));
            of_base.is_some_and(|text| self.templates.taken(tools) != Some(text))
        };
        let differs = [false, true].into_iter().any(differs);
        (differs && !folder.join(RECORD).exists()).then(|| {
            format!(
                "the chat template is the adapter's, in {file}, and differs from the base's; --template default takes the base's"
            )
        })
    }
}

/// The templates that the adapter in `folder` was trained with, where it says so: in files of their
/// own, or as older releases of transformers have them, in the tokenizer's settings.
///
/// # Errors
/// They are there and cannot be read, or only templates for other uses are there.
pub fn own(folder: &Path) -> Result<Option<Own>> {
    let separate = separate(folder)?;
    if !separate.is_empty() {
        return Own::new(folder, TEMPLATE, separate).map(Some);
    }
    for file in SETTINGS {
        let Some(text) = read(folder, file)? else {
            continue;
        };
        let fault = |fault: String| Error::Adapter {
            path: folder.into(),
            fault,
        };
        let settings = strict::parse_settings(&text)
            .map_err(|e| fault(format!("has an unreadable {file}: {e}")))?;
        let templates = Templates::from_setting(&settings["chat_template"]).map_err(|e| {
            fault(format!(
                "has an unusable {file}: {e}; put the template that it was trained with into {TEMPLATE}"
            ))
        })?;
        if !templates.is_empty() {
            return Own::new(folder, file, templates).map(Some);
        }
    }
    Ok(None)
}

/// [`TEMPLATE`], which is the default one, and those in [`ADDITIONAL`], each under its name.
fn separate(folder: &Path) -> Result<Templates> {
    let mut templates = Templates::default();
    if let Some(text) = read(folder, TEMPLATE)? {
        templates = templates.with(None, text);
    }
    let others = folder.join(ADDITIONAL);
    if !others.is_dir() {
        return Ok(templates);
    }
    let entries = fs::read_dir(&others).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut names: Vec<_> = entries
        .map_err(Error::io(&others))?
        .iter()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    for file in names {
        if let Some(name) = file.strip_suffix(".jinja")
            && let Some(text) = read(folder, &format!("{ADDITIONAL}/{file}"))?
        {
            templates = templates.with(Some(name), text);
        }
    }
    Ok(templates)
}

/// The date that the template was given; adapters of other programs say none.
///
/// # Errors
/// It is there and cannot be read.
pub fn date(folder: &Path) -> Result<Option<String>> {
    let Some(text) = read(folder, RECORD)? else {
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

fn read(folder: &Path, name: &str) -> Result<Option<String>> {
    let text = files::text(folder, name)?;
    Ok(text.map(|text| strict::unmarked(&text).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(folder: &Path) -> Result<Option<String>> {
        Ok(own(folder)?.map(|own| own.text().to_owned()))
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
            let found = found.as_ref().map(|own| (own.file, own.text()));
            assert_eq!(found, wanted.map(|text| (file, text)), "{content}");
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

    const TWO: [(Option<&str>, &str); 2] = [(None, "{{ 1 }}"), (Some("tool_use"), "{{ 2 }}")];

    fn two() -> Templates {
        let add = |all: Templates, (name, text): (Option<&str>, &str)| all.with(name, text.into());
        TWO.into_iter().fold(Templates::default(), add)
    }

    #[test]
    fn a_template_for_tools_is_kept_beside_the_default_one() {
        let home = tempfile::tempdir().expect("a folder");
        let list = r#"{"chat_template": [{"name": "default", "template": "{{ 1 }}"}, {"name": "tool_use", "template": "{{ 2 }}"}]}"#;
        fs::write(home.path().join("tokenizer_config.json"), list).expect("a file");
        let listed = own(home.path()).expect("templates").expect("templates");
        assert_eq!(listed.templates, two());
        let others = home.path().join(ADDITIONAL);
        fs::create_dir(&others).expect("a folder");
        fs::write(home.path().join(TEMPLATE), "{{ 1 }}").expect("a file");
        fs::write(others.join("tool_use.jinja"), "{{ 2 }}").expect("a file");
        fs::write(others.join("notes.txt"), "{{ 3 }}").expect("a file");
        let separate = own(home.path()).expect("templates").expect("templates");
        assert_eq!((separate.file, &separate.templates), (TEMPLATE, &two()));
        fs::remove_file(home.path().join(TEMPLATE)).expect("removed");
        let told = own(home.path()).expect_err("no default").to_string();
        assert!(told.contains("none named `default`"), "{told}");
    }

    #[test]
    fn a_difference_for_tools_alone_is_told() {
        let home = tempfile::tempdir().expect("a folder");
        let special = SpecialTokens::default;
        let one = Templates::from("{{ 1 }}".to_owned());
        for (templates, base) in [(two(), one.clone()), (one.clone(), two())] {
            let file = TEMPLATE;
            let own = Own { file, templates };
            let used = own.compiled(home.path(), special()).expect("a template");
            let note = |base| own.note(home.path(), "auto", &used, Some(base));
            assert!(note(&base).is_some());
            assert_eq!(note(&own.templates), None);
        }
        let (file, templates) = (TEMPLATE, two());
        let own = Own { file, templates };
        let used = ChatTemplate::of(&one, special()).expect("a template");
        let told = own.note(home.path(), "{{ 1 }}", &used, None);
        assert!(told.is_some_and(|told| told.contains("--template auto")));
    }

    #[test]
    fn a_template_that_does_not_compile_is_named_with_its_file() {
        for file in [TEMPLATE, "tokenizer_config.json"] {
            let broken = Own {
                file,
                templates: Templates::from("{{ bad".to_owned()),
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
            templates: Templates::from("{{ 1 }}".to_owned()),
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
