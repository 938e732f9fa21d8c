//! The modules of a crate and what they import of each other, read from the source.
//!
//! A module is a file. `use` declarations and paths in the code count where they begin with
//! `crate`, `super` or `self`, with a module below or with a module that is taken by its name;
//! such a module counts by what is reached through it. What a `mod.rs` or `lib.rs` hands on by
//! `pub use` counts as an import of the file that defines it; it is an import of the `mod.rs` too
//! where its code says the name. Not seen are `#[cfg(test)]` parts, methods that a file below adds to
//! a type of its folder, and what macros expand to.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use source::{Use, bare, paths, split};

/// A module's path in its crate; empty for `lib.rs` or `main.rs`.
type Module = Vec<String>;

/// What a module takes from elsewhere, and the paths in its code.
#[derive(Debug, Default)]
struct Source {
    uses: Vec<Use>,
    paths: Vec<Vec<String>>,
}

impl Source {
    /// Whether `name` stands in the code.
    fn says(&self, name: &str) -> bool {
        self.paths.iter().any(|path| path[0] == name)
    }
}

/// The modules of one crate.
#[derive(Debug, Default)]
pub struct Modules {
    /// Each with its source, without comments, strings and tests.
    sources: BTreeMap<Module, Source>,
    /// Names that a module hands on, each with the module that it is from.
    handed_on: BTreeMap<(Module, String), Module>,
    /// Modules that a module takes by their names, each with the name that it has there.
    taken: BTreeMap<(Module, String), Module>,
}

/// Where a path leads.
enum Target {
    /// To this module itself.
    Module(Module),
    /// To what is defined in this module.
    Within(Module),
}

impl Target {
    fn module(self) -> Module {
        match self {
            Self::Module(module) | Self::Within(module) => module,
        }
    }
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
        let parsed = |(module, text): (Module, String)| {
            let (uses, code) = split(&bare(&text));
            let paths = paths(&code);
            (module, Source { uses, paths })
        };
        let mut modules = Self {
            sources: named.into_iter().map(parsed).collect(),
            ..Self::default()
        };
        // What is handed on may itself be handed on: twice is as deep as it goes.
        for _ in 0..2 {
            modules.follow();
        }
        modules
    }

    /// Notes the names that modules hand on and take, as far as they are known by now.
    fn follow(&mut self) {
        let (mut handed_on, mut taken) = (Vec::new(), Vec::new());
        for (module, source) in &self.sources {
            for import in &source.uses {
                let Some(target) = self.resolve(module, &import.path) else {
                    continue;
                };
                let key = (module.clone(), import.name.clone());
                if let Target::Module(target) = &target {
                    taken.push((key.clone(), target.clone()));
                }
                let target = target.module();
                if import.public && target != *module {
                    handed_on.push((key, target));
                }
            }
        }
        self.handed_on.extend(handed_on);
        self.taken.extend(taken);
    }

    /// Every module with those that it imports.
    pub fn imports(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let imports = self.sources.iter().map(|(module, source)| {
            let found = self.used(module, source).chain(self.named(module, source));
            let found = found.filter(|from| from != module).collect();
            (module.clone(), found)
        });
        imports.collect()
    }

    /// The modules from which `module` takes names, but for those that a face only hands on.
    fn used<'a>(
        &'a self,
        module: &'a Module,
        source: &'a Source,
    ) -> impl Iterator<Item = Module> + 'a {
        let is_face = self.is_face(module);
        let own = source
            .uses
            .iter()
            .filter(move |import| !import.public || !is_face || source.says(&import.name));
        own.filter_map(|import| match self.resolve(module, &import.path)? {
            Target::Within(from) => Some(from),
            Target::Module(_) => None,
        })
    }

    /// The modules that paths in the code of `module` lead to.
    fn named<'a>(
        &'a self,
        module: &'a Module,
        source: &'a Source,
    ) -> impl Iterator<Item = Module> + 'a {
        let several = source.paths.iter().filter(|path| path.len() > 1);
        let targets = several.map(|path| self.resolve(module, path));
        targets.flatten().map(Target::module)
    }

    /// Whether others lie below `module`, so that it may be no more than their face.
    fn is_face(&self, module: &Module) -> bool {
        self.sources
            .keys()
            .any(|other| other.len() > module.len() && other.starts_with(module))
    }

    /// Where `path`, written in `module`, leads; nowhere if that is in another crate.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let mut at = match first.as_str() {
            "crate" => Vec::new(),
            "self" => module.clone(),
            "super" => module[..module.len().checked_sub(1)?].to_vec(),
            name => self.known(module, name)?,
        };
        for part in rest {
            if part == "super" {
                at.pop()?;
                continue;
            }
            let below = [at.clone(), vec![part.clone()]].concat();
            if !self.sources.contains_key(&below) {
                let from = self.handed_on.get(&(at.clone(), part.clone())).cloned();
                return Some(Target::Within(from.unwrap_or(at)));
            }
            at = below;
        }
        Some(Target::Module(at))
    }

    /// The module that `name` alone stands for in `module`: one below it, or one that it takes.
    fn known(&self, module: &Module, name: &str) -> Option<Module> {
        let below = [module.clone(), vec![name.to_owned()]].concat();
        if self.sources.contains_key(&below) {
            return Some(below);
        }
        self.taken.get(&(module.clone(), name.to_owned())).cloned()
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
    if parts.iter().any(|part| part == "tests") {
        return None;
    }
    match parts.last()?.as_str() {
        "mod" => drop(parts.pop()),
        "lib" | "main" if parts.len() == 1 => parts.clear(),
        _ => {}
    }
    Some(parts)
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

    #[test]
    fn paths_that_begin_with_a_module_below_are_found() {
        let child = "use super::S;\npub fn open() {}\npub fn close() {}\n";
        for (what, face) in [
            ("a call", "mod b;\nfn f() { b::open(); }\n"),
            ("a loop", "mod b;\nfn f() { for x in b::all() {} }\n"),
            ("types", "mod b;\nfn f() { b::open::<u8>(); }\n"),
            ("a bound", "mod b;\nfn f(x: &[u8]) { &x[..b::LEN]; }\n"),
            ("a use", "mod b;\nuse b::open;\n"),
            (
                "several uses",
                "mod b;\nuse b::{\n    close,\n    open,\n};\n",
            ),
            ("self", "mod b;\nfn f() { self::b::open(); }\n"),
            ("a name handed on", "mod b;\npub use b::T;\nfn f(x: T) {}\n"),
            ("a use of self", "mod b;\nuse self::{b::open};\n"),
        ] {
            let found = modules(&[
                ("lib.rs", "mod a;\n"),
                ("a/mod.rs", face),
                ("a/b.rs", child),
            ]);
            assert_eq!(found.circles(), [["a", "a::b"]], "{what}");
        }
    }

    #[test]
    fn what_only_looks_like_a_path_to_a_module_below_is_none() {
        let child = "use super::S;\npub fn open() {}\n";
        for (what, face) in [
            ("a face", "mod b;\npub use b::open;\n"),
            ("a face of that name", "mod b;\npub use b::b;\n"),
            ("a method", "mod b;\nfn f(x: X) { x.b::<u8>(); }\n"),
            ("a function", "mod b;\nfn f() { b::<u8>(); b(); }\n"),
            (
                "a macro",
                "mod b;\nmacro_rules! m { () => { $crate::a::b::open() } }\n",
            ),
            ("another crate", "mod b;\nfn f() { c::b::open(); }\n"),
        ] {
            let found = modules(&[
                ("lib.rs", "mod a;\n"),
                ("a/mod.rs", face),
                ("a/b.rs", child),
            ]);
            assert_eq!(found.circles(), Vec::<Vec<String>>::new(), "{what}");
        }
    }

    #[test]
    fn a_visibility_imports_nothing() {
        let found = modules(&[
            ("lib.rs", "mod a;\n"),
            ("a/mod.rs", "mod b;\nfn f() { b::open(); }\n"),
            ("a/b.rs", "pub(in crate::a) fn open() {}\n"),
        ]);
        assert_eq!(found.circles(), Vec::<Vec<String>>::new());
    }

    #[test]
    fn a_module_that_is_taken_by_its_name_counts_by_what_is_reached_through_it() {
        let found = modules(&[
            ("lib.rs", "mod a;\nmod c;\n"),
            (
                "a/mod.rs",
                "mod b;\npub use b::open;\nfn f() { b::close(); }\n",
            ),
            ("a/b.rs", "use crate::c::{self as d};\nfn f() { d::X; }\n"),
            (
                "c.rs",
                "use crate::{a, a as e};\nfn f() { a::open(); e::open(); }\n",
            ),
        ]);
        assert_eq!(found.circles(), [["a::b", "c"]]);
    }
}
