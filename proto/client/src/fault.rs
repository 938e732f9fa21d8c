//! A fault as every program reports it: to people in the form of compilers, to programs as one JSON
//! object.

use qlora_codes::Code;
use serde_json::{Value, json};

use crate::console;

/// One thing that went wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fault {
    /// `qlora-ctl explain CODE` prints its meaning. Text, because another version of a program may
    /// have sent a code that is not known here; it is shown as it came.
    pub code: String,
    pub message: String,
    /// The way out; empty where there is none.
    pub help: String,
    /// The file and line, or the flag, that the fault is about.
    pub place: Option<String>,
}

/// How a coded fault begins where it is text.
const BEGIN: &str = "error[Q";
const HELP: &str = "\n  help: ";

impl Fault {
    pub fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            message: message.into(),
            help: help.into(),
            place: None,
        }
    }

    /// The form for people. Lines of the message and of the way out after the first are set off, so
    /// that none can be taken for one of ours.
    pub fn text(&self) -> String {
        let place = self
            .place
            .as_ref()
            .map(|place| format!("  ({})", console::line(place)))
            .unwrap_or_default();
        let head = format!(
            "error[{}]: {}{place}",
            self.code,
            under(&self.message, "  | ")
        );
        if self.help.is_empty() {
            head
        } else {
            format!("{head}{HELP}{}", under(&self.help, "  | "))
        }
    }

    fn json(&self) -> Value {
        json!({"code": self.code, "message": self.message, "help": self.help, "place": self.place})
    }

    /// What the parser of a command line says, which it has rendered for people.
    pub fn usage(rendered: &str) -> Self {
        let mut parts = rendered
            .trim()
            .split("\n\n")
            .map(joined)
            .filter(|part| !part.is_empty());
        let message = parts.next().unwrap_or_default();
        let message = message
            .strip_prefix("error: ")
            .unwrap_or(&message)
            .to_owned();
        let help: Vec<String> = parts
            .map(|part| part.strip_prefix("tip: ").unwrap_or(&part).to_owned())
            .collect();
        Self::new(Code::Usage, message, help.join("; "))
    }

    /// The faults that `text` tells in the form for people; none where it has another form.
    pub fn parse(text: &str) -> Vec<Self> {
        if !text.starts_with(BEGIN) {
            return Vec::new();
        }
        let starts = text.match_indices(BEGIN).map(|(at, _)| at);
        let starts: Vec<usize> = starts
            .filter(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')
            .collect();
        let ends = starts.iter().skip(1).copied().chain([text.len()]);
        starts
            .iter()
            .zip(ends)
            .filter_map(|(start, end)| Self::parse_one(text[*start..end].trim_end()))
            .collect()
    }

    fn parse_one(text: &str) -> Option<Self> {
        let (head, help) = text.split_once(HELP).unwrap_or((text, ""));
        let (code, message) = head.strip_prefix("error[")?.split_once("]: ")?;
        // A place stands in brackets behind two spaces.
        let (message, place) = match message
            .strip_suffix(')')
            .and_then(|rest| rest.rsplit_once("  ("))
        {
            Some((message, place)) => (message, Some(place.to_owned())),
            None => (message, None),
        };
        Some(Self {
            code: code.into(),
            message: message.into(),
            help: help.into(),
            place,
        })
    }
}

/// The first fault as `error`, and all of them as `errors`.
pub fn object(faults: &[Fault]) -> Value {
    let all: Vec<Value> = faults.iter().map(Fault::json).collect();
    json!({"v": 1, "error": all.first(), "errors": all})
}

/// Tells on stderr of `faults`, of which there is one at least.
pub fn tell(faults: &[Fault], as_json: bool) {
    if as_json {
        console::note(&console::json(&object(faults).to_string()));
    } else {
        let all: Vec<String> = faults.iter().map(Fault::text).collect();
        console::note(&console::block(&all.join("\n")));
    }
}

/// Whether `args` ask for JSON, judged without a parser: what cannot be parsed is told in the form
/// that was asked for.
pub fn wants_json(mut args: impl Iterator<Item = std::ffi::OsString>) -> bool {
    args.by_ref()
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json")
}

/// Text of several lines with `margin` before all but the first.
pub fn under(text: &str, margin: &str) -> String {
    let lines: Vec<_> = text.lines().map(console::line).collect();
    lines.join(&format!("\n{margin}"))
}

fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_parser_says_becomes_a_message_and_its_way_out() {
        let said = "error: unexpected argument '--jso' found\n\n  tip: a similar argument exists: '--json'\n\nUsage: qlora-ctl jobs [OPTIONS]\n\nFor more information, try '--help'.\n";
        let fault = Fault::usage(said);
        assert_eq!(
            (fault.code.as_str(), fault.message.as_str()),
            ("Q0001", "unexpected argument '--jso' found")
        );
        let help = "a similar argument exists: '--json'; Usage: qlora-ctl jobs [OPTIONS]; For more information, try '--help'.";
        assert_eq!(fault.help, help);
        let several =
            Fault::usage("error: these are missing:\n  --out <OUT>\n  --model <M>\n\nUsage: x\n");
        assert_eq!(
            several.message,
            "these are missing: --out <OUT> --model <M>"
        );
    }

    #[test]
    fn faults_are_read_back_from_their_text() {
        let text = "error[Q0101]: unknown key `x`  (a.yaml:1:2)\n  help: did you mean `y`?\nerror[Q0103]: `z` is 3\n  | more";
        let faults = Fault::parse(text);
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert_eq!(faults[0].place.as_deref(), Some("a.yaml:1:2"));
        assert_eq!(
            faults[0].text(),
            text[..text.find("\nerror").expect("a second one")]
        );
        assert_eq!(
            (faults[0].code.as_str(), faults[0].message.as_str()),
            ("Q0101", "unknown key `x`")
        );
        assert_eq!(
            (faults[0].help.as_str(), faults[1].help.as_str()),
            ("did you mean `y`?", "")
        );
        assert_eq!(faults[1].message, "`z` is 3\n  | more");
        for other in ["", "no such job", "an error[Q0101]: inside"] {
            assert_eq!(Fault::parse(other), [], "{other}");
        }
    }

    #[test]
    fn a_message_cannot_forge_a_way_out() {
        let fault = Fault::new(Code::Refused, "no\n  help: run x", "");
        assert_eq!(fault.text(), "error[Q0403]: no\n  |   help: run x");
        let fault = Fault {
            place: Some("a\nerror[Q0001]: b".into()),
            ..Fault::new(Code::Refused, "no", "fix a\nerror[Q0001]: b")
        };
        let told = "error[Q0403]: no  (a error[Q0001]: b)\n  help: fix a\n  | error[Q0001]: b";
        assert_eq!(fault.text(), told);
    }

    #[test]
    fn json_is_asked_for_by_a_word_of_its_own_before_the_end_of_options() {
        let wants = |args: &[&str]| wants_json(args.iter().map(Into::into));
        assert!(wants(&["jobs", "--jso", "--json"]));
        assert!(!wants(&["jobs", "--", "--json"]) && !wants(&["jobs", "--jsonx"]));
    }
}
