//! The commands that README, docs and shipped configurations tell people to type. The programs' own
//! tests hold every command against their argument parsers.

use std::fs;
use std::path::{Path, PathBuf};

/// Programs of this repository.
pub const PROGRAMS: [&str; 3] = ["qlora-coordinator", "qlora-worker", "qlora-ctl"];

/// One command as it is written, on one line and without its comment.
#[derive(Debug, Clone)]
pub struct Documented {
    /// `docs/X.md:12`.
    pub place: String,
    pub text: String,
    /// Why it cannot be run by a test, as the line says that opens its block, such as
    /// `sh not-run="needs a GPU"`.
    pub not_run: Option<String>,
}

/// A block of a document with what a console shows: commands behind `$ `, and what they print.
#[derive(Debug, Clone)]
pub struct Session {
    /// `docs/X.md:12`.
    pub place: String,
    /// As a console shows it.
    pub text: String,
    /// As of [`Documented`].
    pub not_run: Option<String>,
}

impl Session {
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        self.text.lines().filter_map(|line| line.strip_prefix("$ "))
    }

    /// What `sh` has to run to print the session as it is: `$?` is the status of the command before.
    pub fn script(&self) -> String {
        let told = |command: &str| {
            let shown = command.replace('\'', r"'\''");
            format!("told '$ {shown}'\n{command}\n")
        };
        let commands: String = self.commands().map(told).collect();
        format!("exec 2>&1\ntold() {{ last=$?; printf '%s\\n' \"$1\"; return $last; }}\n{commands}")
    }
}

/// Blocks of consoles, in the order of the files and their lines.
pub fn sessions(repository: &Path) -> Vec<Session> {
    let mut found = Vec::new();
    for (name, text) in documents(repository) {
        found.extend(blocks(&text, "console").into_iter().map(|block| {
            let first = block.lines.first().copied().unwrap_or_default();
            let indent = first.len() - first.trim_start().len();
            let lines = block.lines.iter();
            let lines = lines.map(|line| line.get(indent..).unwrap_or_default());
            Session {
                place: format!("{name}:{}", block.first),
                text: lines.map(|line| format!("{line}\n")).collect(),
                not_run: block.not_run,
            }
        }));
    }
    found
}

/// Everything that is written down as a command.
pub fn documented(repository: &Path) -> Vec<Documented> {
    let mut found = shell(repository);
    for session in sessions(repository) {
        found.extend(session.commands().map(|command| Documented {
            place: session.place.clone(),
            text: command.to_owned(),
            not_run: session.not_run.clone(),
        }));
    }
    for (name, text) in documents(repository) {
        found.extend(plain(&name, &text));
        found.extend(spans(&name, &text));
    }
    found
}

/// What stands in blocks of shell, and in the heads of configurations, to be copied and run; in the
/// order of the files and their lines.
pub fn shell(repository: &Path) -> Vec<Documented> {
    let mut found = Vec::new();
    for (name, text) in documents(repository) {
        for block in blocks(&text, "sh") {
            joined(&name, &block, &mut found);
        }
    }
    for (name, text) in texts(repository, repository.join("configs"), "yaml", Vec::new()) {
        let shown = text
            .lines()
            .map(|line| line.strip_prefix("#   ").unwrap_or_default());
        let block = Block {
            first: 1,
            not_run: None,
            lines: shown.collect(),
        };
        joined(&name, &block, &mut found);
    }
    found
}

/// Name and text of README and docs.
fn documents(repository: &Path) -> Vec<(String, String)> {
    texts(
        repository,
        repository.join("docs"),
        "md",
        vec![repository.join("README.md")],
    )
}

fn texts(
    repository: &Path,
    folder: PathBuf,
    ending: &str,
    mut files: Vec<PathBuf>,
) -> Vec<(String, String)> {
    collect(&folder, ending, &mut files);
    let read = |file: PathBuf| {
        let name = file
            .strip_prefix(repository)
            .expect("a file of the repository")
            .display()
            .to_string();
        (name, fs::read_to_string(&file).expect("a text"))
    };
    files.into_iter().map(read).collect()
}

/// Holds every documented call of `program` against its own parser, which gives the fault of what
/// it does not take.
///
/// # Panics
/// One is not taken, or none is documented.
pub fn each_is_taken(program: &str, parse: impl Fn(Vec<String>) -> Option<String>) {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = crate_folder
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").exists());
    let calls = calls_of(repository.expect("the repository"), program);
    assert!(!calls.is_empty(), "no call of {program} is documented");
    for (place, args) in calls {
        let words = std::iter::once(program.to_owned()).chain(args).collect();
        let fault = parse(words);
        assert!(fault.is_none(), "{place}: {}", fault.unwrap_or_default());
    }
}

/// The arguments of every documented call of `program`, with its place; words such as `JOB` are
/// filled in.
fn calls_of(repository: &Path, program: &str) -> Vec<(String, Vec<String>)> {
    let mut calls = Vec::new();
    for command in documented(repository) {
        assert_ne!(
            command.not_run.as_deref(),
            Some(""),
            "{}: why is it not run?",
            command.place
        );
        for part in command.text.split(['|', ';', '&']) {
            let words = words(part);
            // A program's name is a call where nothing but variables stands before it, or where it
            // is a path.
            let is_call = |&at: &usize| {
                let first = words[..at].iter().all(|word| word.contains('='));
                words[at].rsplit('/').next() == Some(program) && (first || words[at].contains('/'))
            };
            if let Some(at) = (0..words.len()).find(is_call) {
                calls.push((
                    command.place.clone(),
                    words[at + 1..].iter().map(|word| filled(word)).collect(),
                ));
            }
        }
    }
    calls
}

/// An example of what a word in capitals stands for.
fn filled(word: &str) -> String {
    match word {
        "N" | "JOB" | "K" => "1".into(),
        "GIB" => "24".into(),
        "SHELL" => "bash".into(),
        other => other.to_owned(),
    }
}

fn collect(folder: &Path, ending: &str, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, ending, found);
        } else if path.extension().is_some_and(|e| e == ending) {
            found.push(path);
        }
    }
}

/// A fenced block, or the head of a configuration.
struct Block<'a> {
    /// The number of its first line.
    first: usize,
    not_run: Option<String>,
    lines: Vec<&'a str>,
}

/// Every fenced block of one kind.
fn blocks<'a>(text: &'a str, wanted: &str) -> Vec<Block<'a>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < lines.len() {
        let Some(info) = lines[i]
            .trim()
            .strip_prefix("```")
            .filter(|info| !info.is_empty())
        else {
            i += 1;
            continue;
        };
        let end = (i + 1..lines.len())
            .find(|&j| lines[j].trim() == "```")
            .expect("the end of a block");
        if info.split_whitespace().next() == Some(wanted) {
            found.push(Block {
                first: i + 2,
                not_run: reason(info),
                lines: lines[i + 1..end].to_vec(),
            });
        }
        i = end + 1;
    }
    found
}

/// What stands behind `not-run=` in the line that opens a block.
fn reason(info: &str) -> Option<String> {
    let (_, reason) = info.split_once("not-run=")?;
    Some(reason.trim_matches('"').to_owned())
}

/// Commands in blocks of plain text, such as the record of a measurement.
fn plain(file: &str, text: &str) -> Vec<Documented> {
    let names_program = |line: &str| {
        PROGRAMS
            .iter()
            .any(|program| line.contains(&format!("/{program} ")))
    };
    let mut found = Vec::new();
    for block in blocks(text, "text") {
        for (i, line) in block
            .lines
            .iter()
            .enumerate()
            .filter(|(_, line)| names_program(line))
        {
            found.push(Documented {
                place: format!("{file}:{}", block.first + i),
                text: (*line).to_owned(),
                not_run: None,
            });
        }
    }
    found
}

/// Lines without comments, each with those that continue it.
fn joined(file: &str, block: &Block<'_>, found: &mut Vec<Documented>) {
    let mut open: Option<Documented> = None;
    for (i, line) in block.lines.iter().enumerate() {
        let line = line.split("  #").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let command = open.take().unwrap_or_else(|| Documented {
            place: format!("{file}:{}", block.first + i),
            text: String::new(),
            not_run: block.not_run.clone(),
        });
        let text = format!("{} {}", command.text, line.trim_end_matches('\\').trim())
            .trim()
            .to_owned();
        let command = Documented { text, ..command };
        if line.ends_with('\\') {
            open = Some(command)
        } else {
            found.push(command)
        }
    }
}

/// Commands in running text: `` `qlora-ctl watch 1` ``.
fn spans(file: &str, text: &str) -> Vec<Documented> {
    let mut found = Vec::new();
    let mut is_fenced = false;
    let mut prose = String::new();
    for line in text.lines() {
        let is_fence = line.trim().starts_with("```");
        is_fenced ^= is_fence;
        // A heading names a command and is no call of it.
        let is_prose = !(is_fenced || is_fence || line.starts_with('#'));
        prose.push_str(if is_prose { line } else { "" });
        prose.push('\n');
    }
    let mut line = 1;
    for (i, span) in prose.split('`').enumerate() {
        let command = span.split_whitespace().collect::<Vec<_>>().join(" ");
        let names_program = PROGRAMS
            .iter()
            .any(|program| command.starts_with(&format!("{program} ")));
        // Three points and COMMAND stand for what every command has.
        if i % 2 == 1 && names_program && !command.contains("...") && !command.contains("COMMAND") {
            found.push(Documented {
                place: format!("{file}:{line}"),
                text: command,
                not_run: None,
            });
        }
        line += span.matches('\n').count();
    }
    found
}

/// The words of a shell's line, without their quotation marks.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None::<char>);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_session_that_is_run_shows_itself_where_it_is_true() {
        let shown = |text: &str| {
            let session = Session {
                place: "a".into(),
                text: text.into(),
                not_run: None,
            };
            let ran = Command::new("sh").arg("-c").arg(session.script()).output();
            String::from_utf8(ran.expect("a shell").stdout).expect("text")
        };
        let told = "$ echo 'it is'\nit is\n$ ls /nowhere >/dev/null 2>&1 || (echo no >&2; exit 3)\nno\n$ echo $?\n3\n";
        assert_eq!(shown(told), told);
        let untold = told.replace("\n3\n", "\n0\n");
        assert_eq!(shown(&untold), told);
    }
}
