//! Prepares a configuration to be stored under a name: its relative paths are resolved, since a
//! stored configuration has no folder from which they could start.

use qlora_codes::Code;
use qlora_config::{ConfigErrors, Diagnostic, Layers, TrainingConfig, rewritten};

use super::base;
use super::paths::{absolute, located};
use super::resolved::{INPUTS, Resolved};
use crate::error::CtlError;

/// A key, and the whole path that stands there now.
pub type Changed = (&'static str, String);

/// `yaml`, which `resolved` was read from, with whole paths; and the keys that were changed, with
/// these.
///
/// # Errors
/// A path stands there in a form that cannot be replaced without another meaning.
pub fn whole_paths(
    resolved: &Resolved,
    mut yaml: String,
) -> Result<(String, Vec<Changed>), CtlError> {
    let mut wanted = resolved.layers.resolve()?.config().clone();
    let mut changed = Vec::new();
    for (key, path) in relative(resolved, &wanted) {
        let fault = || as_it_stands(resolved, key, &path);
        yaml = rewritten(&yaml, key, &path).ok_or_else(fault)?;
        set(&mut wanted, key, path.clone());
        let layers = Layers {
            file: Some((String::new(), yaml.clone())),
            ..Layers::default()
        };
        if *layers.resolve().map_err(|_| fault())?.config() != wanted {
            return Err(fault());
        }
        changed.push((key, path));
    }
    Ok((yaml, changed))
}

/// The keys with a relative path, and where that leads.
fn relative(resolved: &Resolved, written: &TrainingConfig) -> Vec<Changed> {
    let whole = |key: &'static str, path: &str| {
        let place = resolved.layers.place_of(key);
        let path = located(place.as_ref(), &resolved.origin, path)
            .filter(|_| !std::path::Path::new(path).is_absolute())?;
        Some((key, absolute(&path).to_string_lossy().into_owned()))
    };
    let inputs = INPUTS.iter().zip([&written.data.train, &written.data.eval]);
    let mut found: Vec<_> = inputs
        .filter_map(|((_, key), path)| whole(key, path.as_deref()?))
        .collect();
    let model = &resolved.config.config().model.base;
    found.extend(
        model
            .clone()
            .filter(|_| *model != written.model.base)
            .map(|base| (base::KEY, base)),
    );
    found
}

fn set(config: &mut TrainingConfig, key: &str, path: String) {
    let value = match key {
        "data.train" => &mut config.data.train,
        "data.eval" => &mut config.data.eval,
        _ => &mut config.model.base,
    };
    *value = Some(path);
}

fn as_it_stands(resolved: &Resolved, key: &str, path: &str) -> CtlError {
    ConfigErrors::from(Diagnostic {
        code: Code::InvalidValue,
        message: format!(
            "`{key}` is a relative path, and a stored configuration lies in no folder that this could start from"
        ),
        place: resolved.layers.place_of(key),
        help: Some(format!("write `{path}` in its place")),
    })
    .into()
}

#[cfg(test)]
mod tests {
    use super::super::paths::Origin;
    use super::*;

    fn stored(yaml: &str, folder: &std::path::Path) -> Result<(String, Vec<Changed>), String> {
        let layers = Layers {
            file: Some(("f.yaml".into(), yaml.to_owned())),
            ..Layers::default()
        };
        let resolved =
            Resolved::new(layers, Origin::Folder(folder.to_owned())).map_err(|e| e.to_string())?;
        whole_paths(&resolved, yaml.to_owned()).map_err(|e| e.to_string())
    }

    #[test]
    fn every_relative_path_is_resolved_from_the_folder_of_the_file() {
        let home = tempfile::tempdir().expect("a folder");
        let root = home.path().canonicalize().expect("a folder");
        std::fs::create_dir(root.join("tiny")).expect("a folder");
        let at = |name: &str| root.join(name).to_string_lossy().into_owned();
        let yaml = "model: {base: tiny} # here\ndata:\n  train: ../t.jsonl\n  eval: \"e.jsonl\"\n";
        let (text, changed) = stored(yaml, &root).expect("a text");
        let keys: Vec<_> = changed.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["data.train", "data.eval", "model.base"]);
        assert!(
            text.contains("# here") && text.contains(&at("e.jsonl")) && text.contains(&at("tiny")),
            "{text}"
        );
        // What is whole is left as it is.
        assert_eq!(
            stored(&text, std::path::Path::new("/elsewhere")),
            Ok((text.clone(), Vec::new()))
        );
        let whole = "model: {base: smollm2-135m-instruct}\ndata: {train: /d/t.jsonl}\n";
        assert_eq!(stored(whole, &root), Ok((whole.to_owned(), Vec::new())));
    }

    #[test]
    fn a_path_that_cannot_be_replaced_is_refused_with_the_text_to_write() {
        let yaml = "name: &n t.jsonl\nmodel: {base: me/mine}\ndata: {train: *n}\n";
        let said = stored(yaml, std::path::Path::new("/d")).expect_err("an alias");
        assert!(
            said.contains("`data.train`") && said.contains("write `/d/t.jsonl`"),
            "{said}"
        );
        // The key that cannot be replaced is named, not the one before it.
        let yaml = "model: {base: me/mine}\ndata:\n  train: t.jsonl\n  eval: &e e.jsonl\n";
        let said = stored(yaml, std::path::Path::new("/d")).expect_err("an anchor");
        assert!(
            said.contains("`data.eval`") && said.contains("write `/d/e.jsonl`"),
            "{said}"
        );
    }
}
