//! What `model.base` names: a model of the catalogue or of the hub, or a folder or file, whose path
//! workers get whole.

use std::path::Path;

use qlora_codes::Code;
use qlora_config::{
    ConfigErrors, Diagnostic, Layers, TrainingConfig, hub_name_fault, is_gguf_name, is_hub_name,
};
use qlora_planner::{catalogue, find};

use super::paths::{Origin, absolute, located};

pub const KEY: &str = "model.base";
/// Share of likeness from which a name is taken for a misspelled one.
const ALIKE: f64 = 0.75;

/// The whole path of a model that is named by one that starts here; none where the name stays as it
/// is.
///
/// # Errors
/// It is a name that no catalogue has, or a relative path that leads nowhere: a worker could not
/// find it either.
pub fn whole(
    config: &TrainingConfig,
    layers: &Layers,
    origin: &Origin,
) -> Result<Option<String>, ConfigErrors> {
    let base = config.model.base.as_deref().unwrap_or_default();
    if find(base).is_some() || Path::new(base).is_absolute() {
        return Ok(None);
    }
    let place = layers.place_of(KEY);
    let path = located(place.as_ref(), origin, base);
    if let Some(path) = path.as_deref().filter(|path| path.exists()) {
        return Ok(Some(absolute(path).to_string_lossy().into_owned()));
    }
    if is_hub_name(base) {
        return Ok(None);
    }
    let (message, help) = match (path, hub_name_fault(base)) {
        (_, Some(help)) => (
            format!("`{KEY}` is `{base}`, which is no file or folder and no name of the hub"),
            help.to_owned(),
        ),
        _ if !base.contains(['/', '\\']) && !is_file_name(base) => (
            format!("`{KEY}` is `{base}`, which is no model of the catalogue and no folder"),
            names_like(base),
        ),
        (Some(path), None) => (
            format!(
                "`{KEY}` is `{base}`, and there is no file or folder {}",
                path.display()
            ),
            "fix the path; a model that lies on the worker only is named by its whole path there"
                .to_owned(),
        ),
        (None, None) => (
            format!(
                "`{KEY}` is `{base}`, and a stored configuration lies in no folder that this could start from"
            ),
            format!(
                "give --set {KEY}=PATH, or store the file again, which writes whole paths: qlora-ctl config put NAME FILE"
            ),
        ),
    };
    Err(Diagnostic {
        code: Code::NoModel,
        message,
        place,
        help: Some(help),
    }
    .into())
}

/// What to say of `base`, a name of the hub, where its first part is a folder here: it may be a
/// path that is misspelled.
pub fn beside_a_folder(base: &str, layers: &Layers, origin: &Origin) -> Option<String> {
    if !is_hub_name(base) {
        return None;
    }
    let path = located(layers.place_of(KEY).as_ref(), origin, base)?;
    let (folder, name) = (path.parent()?, path.file_name()?);
    (folder.is_dir() && !path.exists()).then(|| {
        format!(
            "`{base}` is taken for a model of the hub: the folder {} is here and has no {}",
            folder.display(),
            name.to_string_lossy()
        )
    })
}

fn is_file_name(name: &str) -> bool {
    is_gguf_name(name) || name.to_ascii_lowercase().ends_with(".safetensors")
}

/// The names of the catalogue, the one that was probably meant before all.
fn names_like(base: &str) -> String {
    let lower = base.to_lowercase().replace(['_', ' '], "-");
    let mut names: Vec<(f64, &str)> = catalogue()
        .iter()
        .map(|entry| (likeness(&lower, entry.name), entry.name))
        .collect();
    names.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let all = names
        .iter()
        .map(|(_, name)| *name)
        .collect::<Vec<_>>()
        .join(", ");
    let others = format!(
        "known are {all}; a model of the hub is written owner/name, any other by the path of its folder or .gguf file"
    );
    match names.first() {
        Some((alike, name)) if *alike >= ALIKE => format!("did you mean `{name}`? {others}"),
        _ => others,
    }
}

/// From 0 to 1; a beginning of the name is the name.
fn likeness(text: &str, name: &str) -> f64 {
    if text.len() >= 4 && (name.starts_with(text) || text.starts_with(name)) {
        return 1.0;
    }
    strsim::normalized_damerau_levenshtein(text, name).max(strsim::jaro_winkler(text, name) - 0.1)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn told(base: &str, origin: &Origin, set: bool) -> Result<Option<String>, String> {
        let text = format!(
            "model: {{base: {}}}\ndata: {{train: t.jsonl}}\n",
            if set { "x/y" } else { base }
        );
        let set = if set {
            vec![format!("model.base={base}")]
        } else {
            Vec::new()
        };
        let layers = Layers {
            file: Some(("f.yaml".into(), text)),
            env: Vec::new(),
            set,
        };
        let config = layers.resolve().expect("a configuration");
        whole(config.config(), &layers, origin).map_err(|e| e.to_string())
    }

    #[test]
    fn a_name_that_nothing_has_is_refused_with_the_nearest_one() {
        let here = Origin::Folder(PathBuf::new());
        for (base, meant) in [
            ("llama-3.1-8b", "llama-3.1-8b-instruct"),
            ("Llama_3.1_8B_instruct", "llama-3.1-8b-instruct"),
            ("mistral-7b-instuct", "mistral-7b-instruct"),
            ("smollm2-135m", "smollm2-135m-instruct"),
        ] {
            for set in [false, true] {
                let said = told(base, &here, set).expect_err(base);
                let wanted = format!("did you mean `{meant}`?");
                assert!(
                    said.contains("Q0302") && said.contains(&wanted) && said.contains(base),
                    "{said}"
                );
                assert!(
                    said.contains(if set {
                        "(--set model.base)"
                    } else {
                        "(f.yaml:1:9)"
                    }),
                    "{said}"
                );
            }
        }
        let said = told("gpt2", &here, false).expect_err("no model");
        assert!(
            !said.contains("did you mean") && said.contains("smollm2-135m-instruct"),
            "{said}"
        );
        assert!(said.contains("owner/name"), "{said}");
    }

    #[test]
    fn a_name_that_the_hub_cannot_have_is_refused() {
        for origin in [Origin::Stored, Origin::Folder("/nowhere".into())] {
            for (base, way_out) in [
                ("owner/name@main", "revision"),
                ("owner/na me", "letters, digits"),
            ] {
                let said = told(base, &origin, false).expect_err(base);
                assert!(said.contains(base) && said.contains(way_out), "{said}");
            }
        }
    }

    #[test]
    fn names_of_the_catalogue_and_the_hub_and_whole_paths_stay_as_they_are() {
        for origin in [Origin::Stored, Origin::Folder("/nowhere".into())] {
            for base in [
                "smollm2-135m-instruct",
                "meta-llama/Llama-3.1-8B-Instruct",
                "me/mine",
                "/models/x.gguf",
            ] {
                assert_eq!(told(base, &origin, false), Ok(None), "{base}");
            }
        }
    }

    #[test]
    fn a_name_of_the_hub_beside_a_folder_is_told_of() {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(home.path().join("models/llama")).expect("folders");
        let said = |base: &str| {
            let text = format!("model: {{base: {base}}}\ndata: {{train: t.jsonl}}\n");
            let layers = Layers {
                file: Some(("f.yaml".into(), text)),
                ..Layers::default()
            };
            beside_a_folder(base, &layers, &Origin::Folder(home.path().into()))
        };
        let told = said("models/llma").expect("a note");
        assert!(
            told.contains("`models/llma`") && told.contains("has no llma"),
            "{told}"
        );
        for base in ["models/llama", "meta-llama/llma", "llma", "models/a/b"] {
            assert_eq!(said(base), None, "{base}");
        }
    }

    #[test]
    fn a_relative_path_starts_from_where_it_was_written_and_becomes_whole() {
        let home = tempfile::tempdir().expect("a folder");
        let root = home.path().canonicalize().expect("a folder");
        std::fs::create_dir_all(root.join("models/tiny")).expect("folders");
        std::fs::write(root.join("x.gguf"), "GGUF").expect("a file");
        let origin = Origin::Folder(root.join("configs/.."));
        let wrong = Origin::Folder(root.join("models"));
        std::fs::create_dir_all(root.join("configs")).expect("a folder");
        for base in [
            "models/tiny",
            "./models/tiny",
            "x.gguf",
            "./models/../x.gguf",
        ] {
            let found = told(base, &origin, false)
                .expect("a path")
                .expect("a whole path");
            let wanted = if base.contains("gguf") {
                root.join("x.gguf")
            } else {
                root.join("models/tiny")
            };
            assert_eq!(Path::new(&found), wanted, "{base}");
        }
        for base in ["./tinY", "x.gguf", "a/b/c"] {
            let said = told(base, &wrong, false).expect_err(base);
            assert!(
                said.contains("there is no file or folder") && said.contains("whole path"),
                "{said}"
            );
            let said = told(base, &Origin::Stored, false).expect_err(base);
            assert!(said.contains("config put"), "{said}");
        }
    }
}
