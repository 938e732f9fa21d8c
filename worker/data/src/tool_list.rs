//! A list of tools by itself, such as a file that a model is asked with: held against the rules of a
//! row's tools.

use serde_json::Value;

use crate::check::check_tools;
use crate::strict;
use crate::tools::normal_tools;

/// Why a text holds no tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ToolsError {
    #[error("it is not JSON: {0}")]
    NotJson(String),
    #[error("it is not a list of function definitions: {0}")]
    Form(String),
    #[error("{}", .0.join("; "))]
    Findings(Vec<String>),
}

/// The tools that the JSON `text` lists, in one form, held against the rules of a row's tools.
///
/// # Errors
/// It is no list of tools, or one of them says nothing, or stands there twice.
pub fn tools_of(text: &str) -> Result<Vec<Value>, ToolsError> {
    let value = strict::parse(strict::unmarked(text));
    let value = value.map_err(|e| ToolsError::NotJson(e.to_string()))?;
    let tools = normal_tools(Some(value)).map_err(ToolsError::Form)?;
    let found = check_tools(&tools);
    if found.is_empty() {
        Ok(tools)
    } else {
        let texts = found.iter().map(ToString::to_string);
        Err(ToolsError::Findings(texts.collect()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_read_in_one_form_and_what_is_no_tool_is_named() {
        let wanted = json!({"type": "function", "function": {"name": "f"}});
        for text in [
            "[{\"name\": \"f\"}]",
            "\u{feff}[{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]",
        ] {
            assert_eq!(
                tools_of(text).expect(text),
                std::slice::from_ref(&wanted),
                "{text}"
            );
        }
        for (text, named) in [
            ("[\u{feff}]", "it is not JSON"),
            ("{\"name\": \"f\"}", "it is not a list"),
            ("[{}]", "tool 0 has no `name`"),
            ("[{\"name\": \"f\"}, 1]", "tool 1 is not an object"),
            (
                "[{\"name\": \"f\"}, {\"name\": \"f\"}]",
                "tool `f`: it is defined twice",
            ),
            (
                "[{\"name\": \"f\", \"parameters\": {\"type\": \"dict\"}}]",
                "\"dict\" of its parameters is no type",
            ),
        ] {
            let fault = tools_of(text).expect_err(text).to_string();
            assert!(fault.contains(named), "{text}: {fault}");
        }
    }
}
