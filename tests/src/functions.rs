//! The functions of a source and their lengths, found line by line without a parser: the format of
//! `cargo fmt` says by the indent where one ends.

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Where it begins, from 1.
    pub line: usize,
    /// From the line of its name to that of its last brace.
    pub lines: usize,
}

/// What may stand before `fn`, beside a visibility.
const QUALIFIERS: [&str; 5] = ["default ", "const ", "async ", "unsafe ", "extern \"C\" "];

/// Every function of `text` that has a body, those within others too, but for those of
/// `#[cfg(test)]` modules.
pub fn functions(text: &str) -> Vec<Function> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut at) = (Vec::new(), 0);
    while at < lines.len() {
        if begins_tests(&lines[at..]) {
            at = closing(&lines, at + 1).unwrap_or(lines.len());
        } else if let Some(name) = name(lines[at])
            && let Some(end) = end(&lines, at)
        {
            found.push(Function {
                name: name.to_owned(),
                line: at + 1,
                lines: end - at + 1,
            });
        }
        at += 1;
    }
    found
}

/// Whether a module of tests with a body begins here.
fn begins_tests(lines: &[&str]) -> bool {
    let is_module = |line: &&str| {
        let line = visible(line.trim_start());
        line.starts_with("mod ") && line.ends_with('{')
    };
    lines[0].trim_start() == "#[cfg(test)]" && lines.get(1).is_some_and(is_module)
}

/// What stands behind a visibility.
fn visible(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("pub") else {
        return line;
    };
    let rest = match rest.strip_prefix('(') {
        Some(within) => within.split_once(')').map_or("", |(_, rest)| rest),
        None => rest,
    };
    rest.trim_start()
}

/// The name of the function that begins in `line`.
fn name(line: &str) -> Option<&str> {
    let mut rest = visible(line.trim_start());
    while let Some(shorter) = QUALIFIERS.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = shorter;
    }
    let name = rest.strip_prefix("fn ")?;
    name.split(['(', '<']).next()
}

/// The last line of the function that begins in line `at`; none of one without a body.
fn end(lines: &[&str], at: usize) -> Option<usize> {
    match lines[at].chars().next_back()? {
        '}' => Some(at),
        ';' => None,
        _ => closing(lines, at),
    }
}

/// The brace that ends what begins in line `at`; none where a semicolon does.
fn closing(lines: &[&str], at: usize) -> Option<usize> {
    let depth = indent(lines[at]);
    let mut level = (at + 1..lines.len())
        .filter(|&i| !lines[i].trim_start().is_empty() && indent(lines[i]) == depth);
    let last = level.find(|&i| lines[i].trim() == "}" || lines[i].ends_with(';'))?;
    (lines[last].trim() == "}").then_some(last)
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_their_lengths_and_those_of_tests_are_not() {
        let text = "\
pub(crate) const fn one() {}

trait T {
    fn none(&self);
    fn long(
        &self,
    ) -> u8;
    async fn given(&self) -> u8 {
        1
    }
}

#[cfg(test)]
pub(crate) mod tests {
    fn helper() {
        2;
    }
}

pub unsafe extern \"C\" fn generic<T>(
    t: T,
) where
    T: Copy,
{
    fn within() {
        3;
    }
}
";
        let found = functions(text);
        let found: Vec<_> = found
            .iter()
            .map(|f| (f.name.as_str(), f.line, f.lines))
            .collect();
        assert_eq!(
            found,
            [
                ("one", 1, 1),
                ("given", 8, 3),
                ("generic", 20, 9),
                ("within", 25, 3)
            ]
        );
    }
}
