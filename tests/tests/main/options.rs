//! The page of all options is what the programs' own help says: every command and every option, and
//! no other; `just bless` writes it.

use std::fs;
use std::path::Path;

use expect_test::expect_file;
use qlora_tests::launch;

pub const PROGRAMS: [&str; 3] = ["qlora-ctl", "qlora-worker", "qlora-coordinator"];
/// What every command has.
const EVERYWHERE: [&str; 2] = ["-h, --help", "-V, --version"];

/// Headings of options that may stand behind every command; they are listed once.
const GLOBAL: [&str; 2] = ["Global options", "Connection"];

/// What a command's help lists.
#[derive(Default)]
struct Help {
    commands: Vec<String>,
    /// Arguments and options as they are written, with their text.
    arguments: Vec<(String, String)>,
    /// Those that the program has everywhere.
    global: Vec<(String, String)>,
}

/// What a command prints with `--help`, whatever the environment.
pub fn help_text(words: &[&str]) -> String {
    let (program, rest) = words.split_first().expect("a program");
    let mut command = launch(program);
    // A variable that is set would stand in the help.
    command.env_remove("COLUMNS").env_remove("LINES");
    let output = command
        .args(rest)
        .arg("--help")
        .output()
        .expect("a program");
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The commands that a help text lists.
pub fn command_names(text: &str) -> Vec<String> {
    read(text).commands
}

/// Reads the sections of a help text: a heading without an indent, entries with one, and texts
/// beside or below them.
fn read(text: &str) -> Help {
    let mut found = Help::default();
    let mut section = String::new();
    let mut indent = 0;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if depth == 0 && line.ends_with(':') {
            section = line.trim_end_matches(':').to_owned();
            indent = 0;
            continue;
        }
        if depth == 0 && !line.is_empty() {
            section.clear();
        }
        if section.is_empty()
            || trimmed.is_empty()
            || section.starts_with("Example")
            || section == "Usage"
        {
            continue;
        }
        if section == "Commands" {
            if depth == 2 {
                found.commands.push(
                    trimmed
                        .split_whitespace()
                        .next()
                        .expect("a word")
                        .to_owned(),
                );
            }
            continue;
        }
        let list = if GLOBAL.contains(&section.as_str()) {
            &mut found.global
        } else {
            &mut found.arguments
        };
        // Options without a short form are indented by four more.
        let begins = depth == 2
            || (depth == 6 && trimmed.starts_with("--"))
            || (indent == 0 && trimmed.starts_with(['<', '[', '-']));
        if begins {
            let (name, words) = trimmed.split_once("  ").unwrap_or((trimmed, ""));
            list.push((
                name.trim_end_matches("...").to_owned(),
                words.trim().to_owned(),
            ));
            indent = depth;
        } else if let Some((_, words)) = list.last_mut() {
            // Values with words of their own stand one a line.
            let (between, text) = match trimmed.strip_prefix("- ") {
                Some(value) if words.ends_with(':') => (" ", value),
                Some(value) => (", ", value),
                None if trimmed.ends_with(':') => (". ", trimmed),
                None => (" ", trimmed),
            };
            words.push_str(if words.is_empty() { "" } else { between });
            words.push_str(text);
        }
    }
    for list in [&mut found.arguments, &mut found.global] {
        list.retain(|(name, _)| !EVERYWHERE.contains(&name.as_str()));
    }
    found
}

/// The section of one command and of those below it.
fn section(words: &[&str], page: &mut String) {
    let help = read(&help_text(words));
    let rows = |list: &[(String, String)]| {
        let row = |(name, text): &(String, String)| {
            format!(
                "| `{}` | {} |\n",
                name.replace('|', "\\|"),
                text.replace('|', "\\|")
            )
        };
        list.iter().map(row).collect::<String>()
    };
    let own = rows(&help.arguments)
        + &if words.len() == 1 {
            rows(&help.global)
        } else {
            String::new()
        };
    if !own.is_empty() || help.commands.is_empty() {
        let (marks, name) = (if words.len() == 1 { "##" } else { "###" }, words.join(" "));
        let body = if own.is_empty() {
            "No argument.\n".into()
        } else {
            format!("| argument | meaning |\n|---|---|\n{own}")
        };
        page.push_str(&format!("\n{marks} `{name}`\n\n{body}"));
    }
    for command in help.commands.iter().filter(|command| *command != "help") {
        section(&[words, &[command]].concat(), page);
    }
}

#[test]
fn the_page_of_options_is_what_the_help_of_the_programs_says() {
    let mut wanted = String::new();
    PROGRAMS
        .iter()
        .for_each(|program| section(&[program], &mut wanted));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/options.md");
    let page = fs::read_to_string(&path).expect("the page");
    let head = page.find("\n## ").map_or("", |at| &page[..at]);
    expect_file![path].assert_eq(&format!("{head}{wanted}"));
    for option in [
        "`--address-file <FILE>`",
        "`--set <KEY=VALUE>`",
        "`--peer-port <PORT>`",
    ] {
        assert!(
            wanted.contains(option),
            "{option} is not read from the help"
        );
    }
}
