//! The modules of a crate and what they import of each other, read from the source.
//!
//! A module is a file. `use` declarations and paths in the code count where they begin with
//! `crate`, `super` or `self`; what a `mod.rs` or `lib.rs` hands on by `pub use` counts as an
//! import of the file that defines it. Macros and `#[cfg(test)]` parts are not looked into.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path in its crate; empty for `lib.rs` or `main.rs`.
type Module = Vec<String>;

/// The modules of one crate.
#[derive(Debug, Default)]
pub struct Modules {
    /// Each with its source, without comments, strings and tests.
    sources: BTreeMap<Module, String>,
    /// Names that a module hands on, each with the module that it is from.
    handed_on: BTreeMap<(Module, String), Module>,
}

impl Modules {
    /// Of the crate whose sources lie in `folder`.
    ///
    /// # Panics
    /// The folder cannot be read.
    pub fn read(folder: &Path) -> Self {
        let named = sources(folder).into_iter().filter_map(|file| {
            let module = module_of(file.strip_prefix(folder).expect("a file of the folder"))?;
            Some((module, fs::read_to_string(&file).expect("a source")))
        });
        Self::of(named)
    }

    fn of(named: impl IntoIterator<Item = (Module, String)>) -> Self {
        let sources = named
            .into_iter()
            .map(|(module, text)| (module, bare(&text)))
            .collect();
        let mut modules = Self {
            sources,
            handed_on: BTreeMap::new(),
        };
        // What is handed on may itself be handed on: twice is as deep as it goes.
        for _ in 0..2 {
            let found: Vec<_> = modules
                .sources
                .iter()
                .flat_map(|(m, text)| modules.hands_on(m, text))
                .collect();
            modules.handed_on.extend(found);
        }
        modules
    }

    fn hands_on(&self, module: &Module, text: &str) -> Vec<((Module, String), Module)> {
        let declared = uses(text)
            .into_iter()
            .filter(|(public, _)| *public)
            .flat_map(|(_, tree)| flat(&tree));
        let own = declared.filter_map(|(path, name)| {
            let path = match path.first().map(String::as_str) {
                Some("crate" | "super" | "self") => path,
                _ => [vec!["self".to_owned()], path].concat(),
            };
            let from = self.resolve(module, &path)?;
            (from != *module).then_some(((module.clone(), name), from))
        });
        own.collect()
    }

    /// Every module with those that it imports.
    pub fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let of = |(module, text): (&Module, &String)| {
            let declared = uses(text)
                .into_iter()
                .filter(|(public, _)| !*public || !self.is_face(module));
            let declared = declared
                .flat_map(|(_, tree)| flat(&tree))
                .map(|(path, _)| path);
            let found = declared
                .chain(paths(text))
                .filter_map(|path| self.resolve(module, &path));
            (
                module.clone(),
                found.filter(|from| from != module).collect(),
            )
        };
        self.sources.iter().map(of).collect()
    }

    /// Whether others lie below `module`, so that it may be no more than their face.
    fn is_face(&self, module: &Module) -> bool {
        self.sources
            .keys()
            .any(|other| other.len() > module.len() && other.starts_with(module))
    }

    /// The module in which what `path`, written in `module`, leads to is defined.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<Module> {
        let mut at = match path.first()?.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for part in &path[1..] {
            if part == "super" {
                at.pop()?;
                continue;
            }
            let below = [at.clone(), vec![part.clone()]].concat();
            if self.sources.contains_key(&below) {
                at = below;
            } else {
                return Some(
                    self.handed_on
                        .get(&(at.clone(), part.clone()))
                        .cloned()
                        .unwrap_or(at),
                );
            }
        }
        Some(at)
    }

    /// Modules that import each other in a loop, each circle once, sorted; `kernels::cpu` is a
    /// folder's own file.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        let reach = |from: &Module| {
            let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
            while let Some(at) = next.pop() {
                next.extend(
                    imports[&at]
                        .iter()
                        .filter(|to| seen.insert((*to).clone()))
                        .cloned(),
                );
            }
            seen
        };
        let reached: BTreeMap<&Module, BTreeSet<Module>> =
            imports.keys().map(|m| (m, reach(m))).collect();
        let together = |m: &Module| -> Vec<String> {
            let back = reached[m]
                .iter()
                .filter(|other| reached[*other].contains(m));
            back.map(|other| {
                if other.is_empty() {
                    "crate".to_owned()
                } else {
                    other.join("::")
                }
            })
            .collect()
        };
        let circles: BTreeSet<Vec<String>> = imports
            .keys()
            .map(together)
            .filter(|circle| circle.len() > 1)
            .collect();
        circles.into_iter().collect()
    }
}

/// Every file of Rust in `folder` and below.
///
/// # Panics
/// The folder cannot be read.
pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)
        .expect("a folder of sources")
        .map(|entry| entry.expect("an entry").path())
    {
        match entry.is_dir() {
            true => files.extend(sources(&entry)),
            false if entry.extension().is_some_and(|ending| ending == "rs") => files.push(entry),
            false => {}
        }
    }
    files
}

/// The module of a file; none of files that hold tests alone.
fn module_of(file: &Path) -> Option<Module> {
    let mut parts: Module = file
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    match parts.last()?.as_str() {
        "tests" => return None,
        "mod" => drop(parts.pop()),
        "lib" | "main" if parts.len() == 1 => parts.clear(),
        _ => {}
    }
    Some(parts)
}

/// `text` without comments, strings, and what stands behind the last `#[cfg(test)]` at the
/// beginning of a line.
fn bare(text: &str) -> String {
    let text = text
        .rsplit_once("\n#[cfg(test)]\nmod tests")
        .map_or(text, |(before, _)| before);
    let mut bare = String::with_capacity(text.len());
    for line in text.lines() {
        let mut within = false;
        let mut before = ' ';
        for c in line.split("//").next().unwrap_or_default().chars() {
            if c == '"' && before != '\\' && before != '\'' {
                within = !within;
            } else if !within {
                bare.push(c);
            }
            before = c;
        }
        bare.push('\n');
    }
    bare
}

/// The `use` declarations of a source: whether others may take them from here, and their trees.
fn uses(text: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    for declaration in text.split(';') {
        let Some(at) = declaration.find("use ") else {
            continue;
        };
        let (before, tree) = declaration.split_at(at);
        let last = before.lines().last().unwrap_or_default().trim();
        if last.is_empty() || last.starts_with("pub") {
            found.push((
                last == "pub" || last.starts_with("pub("),
                tree["use ".len()..].trim().to_owned(),
            ));
        }
    }
    found
}

/// Every path of a tree of imports, with the name that it is taken under; `a::{b, c::{d}}` are
/// `a::b` and `a::c::d`.
fn flat(tree: &str) -> Vec<(Vec<String>, String)> {
    let tree = tree.trim();
    let Some((head, inner)) = tree.split_once('{') else {
        let (path, name) = tree.split_once(" as ").unwrap_or((tree, ""));
        let parts: Vec<String> = path
            .split("::")
            .map(|part| part.trim().to_owned())
            .collect();
        let name = if name.is_empty() {
            parts.last().cloned().unwrap_or_default()
        } else {
            name.trim().to_owned()
        };
        return vec![(parts, name)];
    };
    let head: Vec<String> = head
        .split("::")
        .map(str::trim)
        .filter(|p| !p.is_empty())
        .map(str::to_owned)
        .collect();
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let mut depth = 0;
    let branches = inner.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let branches = branches
        .filter(|branch| !branch.trim().is_empty())
        .flat_map(flat);
    branches
        .map(|(path, name)| {
            (
                [head.clone(), path]
                    .concat()
                    .into_iter()
                    .filter(|p| p != "self")
                    .collect(),
                name,
            )
        })
        .map(
            |(path, name): (Vec<String>, String)| match head.first().map(String::as_str) {
                Some("self") => ([vec!["self".to_owned()], path].concat(), name),
                _ => (path, name),
            },
        )
        .collect()
}

/// Paths in the code that begin at the crate or at the module above.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            let alone = !text[..at]
                .ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$');
            let path: String = text[at..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || "_:".contains(*c))
                .collect();
            if alone {
                found.push(
                    path.trim_end_matches(':')
                        .split("::")
                        .map(str::to_owned)
                        .collect(),
                );
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> Modules {
        Modules::of(files.iter().map(|(file, text)| {
            (
                module_of(Path::new(file)).expect("a module"),
                (*text).to_owned(),
            )
        }))
    }

    #[test]
    fn a_circle_through_a_face_and_a_path_is_found() {
        let found = modules(&[
            ("lib.rs", "mod a;\nmod b;\npub use a::deep::Deep;\n"),
            ("a/mod.rs", "mod deep;\npub use deep::Other;\n"),
            (
                "a/deep.rs",
                "use std::fmt;\nuse crate::{b::{self, Thing as T}, Result};\npub struct Deep;\n",
            ),
            ("b.rs", "fn x() { crate::Deep; }\n"),
        ]);
        assert_eq!(found.circles(), [["a::deep", "b"]]);
    }

    #[test]
    fn faces_tests_comments_and_texts_make_no_circle() {
        let found = modules(&[
            ("lib.rs", "mod a;\nmod b;\npub use a::A;\n"),
            (
                "a.rs",
                "// crate::b::B\nuse crate::b::B;\nfn f() { let _ = \"x\"; }\n",
            ),
            (
                "b.rs",
                "const X: &str = \"crate::a::A\";\n\n#[cfg(test)]\nmod tests {\n use crate::A;\n}\n",
            ),
        ]);
        assert_eq!(found.circles(), Vec::<Vec<String>>::new());
        let imports = found.imports();
        assert_eq!(
            imports[&vec!["a".to_owned()]],
            BTreeSet::from([vec!["b".to_owned()]])
        );
    }

    #[test]
    fn what_lies_below_may_import_what_its_folder_defines_but_not_both_ways() {
        let found = modules(&[
            ("lib.rs", "mod a;\n"),
            ("a/mod.rs", "mod b;\nuse self::b::f;\npub struct S;\n"),
            ("a/b.rs", "use super::S;\npub fn f() {}\n"),
        ]);
        assert_eq!(found.circles(), [["a", "a::b"]]);
    }
}
