//! The `use` declarations and the paths of a source, found line by line without a parser. They
//! are text; what they lead to is not known here.

/// A name that a source takes from elsewhere.
#[derive(Debug)]
pub(super) struct Use {
    /// Whether others may take it from here.
    pub public: bool,
    pub path: Vec<String>,
    /// What it is called here.
    pub name: String,
}

/// `text` without comments, strings, and what stands behind the last `#[cfg(test)]` at the
/// beginning of a line.
pub(super) fn bare(text: &str) -> String {
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

/// The `use` declarations of a source, and its code without them.
pub(super) fn split(text: &str) -> (Vec<Use>, String) {
    let (mut found, mut code) = (Vec::new(), String::with_capacity(text.len()));
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some((public, begin)) = declaration(line) else {
            code.push_str(line);
            code.push('\n');
            continue;
        };
        let mut tree = begin.to_owned();
        while !tree.contains(';') {
            let Some(line) = lines.next() else { break };
            tree.push_str(line);
        }
        let tree = tree.split(';').next().unwrap_or_default();
        found.extend(
            flat(tree)
                .into_iter()
                .map(|(path, name)| Use { public, path, name }),
        );
    }
    (found, code)
}

/// Whether the `use` that begins in this line is public, and what stands behind the word.
fn declaration(line: &str) -> Option<(bool, &str)> {
    let line = line.trim_start();
    if let Some(tree) = line.strip_prefix("use ") {
        return Some((false, tree));
    }
    let rest = line.strip_prefix("pub")?;
    let rest = match rest.strip_prefix('(') {
        Some(within) => within.split_once(')')?.1,
        None => rest,
    };
    Some((true, rest.strip_prefix(" use ")?))
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
            let name = match name.as_str() {
                "self" => head.last().cloned().unwrap_or_default(),
                _ => name,
            };
            let path = path.into_iter().filter(|part| part != "self");
            (head.iter().cloned().chain(path).collect(), name)
        })
        .collect()
}

/// Paths in the code, those of one part included: any word. A visibility and the declaration of a
/// module import nothing.
pub(super) fn paths(code: &str) -> Vec<Vec<String>> {
    let of_path = |c: char| c.is_alphanumeric() || "_:".contains(c);
    let (mut found, mut done) = (Vec::new(), 0);
    while let Some(start) = code[done..].find(of_path).map(|at| done + at) {
        let length = code[start..].find(|c| !of_path(c));
        let end = length.map_or(code.len(), |length| start + length);
        if begins(&code[..start]) {
            // What a list of types follows, `f::<T>`, ends with the colons.
            let path = code[start..end].trim_end_matches("::");
            found.push(path.split("::").map(str::to_owned).collect());
        }
        done = end;
    }
    found
}

/// Whether a path begins behind `before`; a field, a method and a part of a macro do not.
fn begins(before: &str) -> bool {
    let of_value = before.ends_with('.') && !before.ends_with("..");
    !of_value
        && ["$", "(in ", "mod "]
            .iter()
            .all(|word| !before.ends_with(word))
}
