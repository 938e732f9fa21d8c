//! Imports between the modules of this crate form no circle, and only a backend knows what the program is built with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module by its path from the root of the crate.
type Module = Vec<String>;
/// What each module imports.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn module_of(path: &Path) -> Module {
    let relative = path.strip_prefix(folder()).expect("below src").with_extension("");
    let mut module: Module = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    module.pop_if(|last| last == "mod" || last == "lib");
    module
}

/// The text without comments.
fn code_of(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// Every path of a tree of imports: `a::{b, c::D}` is `a::b` and `a::c::D`.
fn expanded(tree: &str) -> Vec<String> {
    let Some((before, inner)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inner = inner.rsplit_once('}').map_or(inner, |(inner, _)| inner);
    let (mut parts, mut part, mut depth) = (Vec::new(), String::new(), 0);
    for c in inner.chars() {
        match c {
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            c => {
                depth += i32::from(c == '{') - i32::from(c == '}');
                part.push(c);
            }
        }
    }
    parts.push(part);
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expanded(part)).map(|part| format!("{}{part}", before.trim())).collect()
}

/// Paths that the code of a file names: those of `use`, whether it stands in a module within the file, and others that
/// begin at the root.
fn paths_of(code: &str) -> Vec<(String, bool)> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let line = code[..at].rsplit('\n').next().unwrap_or_default();
        if !["", "pub", "pub(crate)", "pub(super)"].contains(&line.trim()) {
            continue;
        }
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        let is_nested = line.starts_with(' ');
        paths.extend(expanded(&tree.replace('\n', " ")).into_iter().map(|path| (path, is_nested)));
    }
    for (at, _) in code.match_indices("crate::") {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let path: String = code[at..].chars().take_while(|&c| is_path(c)).collect();
        if !code[..at].ends_with("$") {
            paths.push((path, false));
        }
    }
    paths
}

/// The module that `path` leads into from `module`; none where that is another crate's, or the root.
fn target(path: &str, is_nested: bool, module: &Module, known: &BTreeSet<Module>) -> Option<Module> {
    let mut parts: Vec<&str> = path.split(" as ").next()?.split("::").map(str::trim).collect();
    let mut at = module.clone();
    match *parts.first()? {
        "crate" => at.clear(),
        "super" if is_nested => {}
        "super" => drop(at.pop()),
        "self" => {}
        first => {
            at.push(first.to_owned());
            if !known.contains(&at) {
                return None;
            }
        }
    }
    parts.remove(0);
    while parts.first() == Some(&"super") {
        at.pop();
        parts.remove(0);
    }
    for part in parts {
        let mut next = at.clone();
        next.push(part.to_owned());
        if !known.contains(&next) {
            break;
        }
        at = next;
    }
    (!at.is_empty()).then_some(at)
}

fn imports() -> Imports {
    let files: Vec<(Module, String)> = sources(&folder())
        .into_iter()
        .map(|path| (module_of(&path), code_of(&fs::read_to_string(&path).expect("a source"))))
        .collect();
    let known: BTreeSet<Module> = files.iter().map(|(module, _)| module.clone()).collect();
    let of = |(module, code): &(Module, String)| {
        let paths = paths_of(code).into_iter();
        let targets = paths.filter_map(|(path, is_nested)| target(&path, is_nested, module, &known));
        (module.clone(), targets.filter(|other| other != module).collect())
    };
    // The root only declares modules and names what is outside's.
    files.iter().filter(|(module, _)| !module.is_empty()).map(of).collect()
}

/// A way along imports that comes back to where it began.
fn circle(imports: &Imports) -> Option<Vec<String>> {
    fn walk(at: &Module, imports: &Imports, way: &mut Vec<Module>, done: &mut BTreeSet<Module>) -> Option<Vec<Module>> {
        if let Some(start) = way.iter().position(|module| module == at) {
            return Some(way[start..].iter().cloned().chain([at.clone()]).collect());
        }
        if !done.insert(at.clone()) {
            return None;
        }
        way.push(at.clone());
        let found = imports.get(at).into_iter().flatten().find_map(|next| walk(next, imports, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    let found = imports.keys().find_map(|module| walk(module, imports, &mut Vec::new(), &mut done))?;
    Some(found.iter().map(|module| module.join("::")).collect())
}

/// The folders that modules lie in, down to `depth`.
fn folders(imports: &Imports, depth: usize) -> Imports {
    let shortened = |module: &Module| module.iter().take(depth).cloned().collect::<Module>();
    let mut found = Imports::new();
    for (module, targets) in imports {
        let from = shortened(module);
        // Two files of one folder, and those that stand beside folders, are looked at file by file.
        let others = targets.iter().map(shortened).filter(|to| *to != from);
        found.entry(from.clone()).or_default().extend(others);
    }
    found
}

#[test]
fn no_module_imports_what_imports_it() {
    let imports = imports();
    assert!(imports.len() > 60, "only {} modules are seen", imports.len());
    assert_eq!(circle(&imports), None);
    assert_eq!(circle(&folders(&imports, 1)), None);
    assert_eq!(circle(&folders(&imports, 2)), None);
    for (from, targets) in &imports {
        let allowed: &[&str] = match from[0].as_str() {
            "types" => &["types"],
            "host" => &["types", "host"],
            _ => continue,
        };
        assert!(targets.iter().all(|to| allowed.contains(&to[0].as_str())), "{from:?} imports {targets:?}");
    }
}

/// The finder itself: files that import one another are found through any way of writing it.
#[test]
fn circles_are_found() {
    let modules = [
        ("a", "use crate::b::{self, c::D};"),
        ("b", ""),
        ("b::c", "mod inner {\n    use super::super::e::F;\n}"),
        ("e", "fn f() { crate::a::g() }"),
    ];
    let module = |path: &str| path.split("::").map(str::to_owned).collect::<Module>();
    let known: BTreeSet<Module> = modules.iter().map(|(path, _)| module(path)).collect();
    let of = |(path, code): &(&str, &str)| {
        let targets = paths_of(code).into_iter().filter_map(|(to, nested)| target(&to, nested, &module(path), &known));
        (module(path), targets.collect())
    };
    let mut imports: Imports = modules.iter().map(of).collect();
    // `super::super` of a module within `b::c` is `b`, which has no `e`.
    assert_eq!(imports[&module("a")], BTreeSet::from([module("b"), module("b::c")]));
    assert_eq!(imports[&module("b::c")], BTreeSet::from([module("b")]));
    assert_eq!(circle(&imports), None);
    imports.entry(module("b")).or_default().insert(module("e"));
    assert_eq!(circle(&imports), Some(["a", "b", "e", "a"].map(str::to_owned).to_vec()));
}

#[test]
fn only_backends_know_what_the_program_is_built_with() {
    let root = folder();
    let trainer = root.join("../../trainer/src");
    for path in sources(&root).into_iter().chain(sources(&trainer)) {
        let text = fs::read_to_string(&path).expect("a source");
        let is_backend = path.starts_with(root.join("backend"));
        assert!(is_backend || !code_of(&text).contains("feature = \""), "{} asks for a feature", path.display());
    }
}
