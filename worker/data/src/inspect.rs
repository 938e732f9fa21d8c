//! Inspects one row by itself: what is wrong with it, and which of its keys nothing reads.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::chat::Example;
use crate::check::check;
use crate::row_error::RowError;
use crate::unread::unread_keys;

/// What was found in a row.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Why it is not trained on as it stands; empty where it is.
    pub findings: Vec<String>,
    pub unread: BTreeSet<String>,
}

/// Looks at one row; see [`crate::rows::Row::value`].
pub fn inspect(value: Result<Value, RowError>) -> Inspected {
    let value = match value {
        Ok(value) => value,
        Err(e) => {
            return Inspected {
                findings: vec![e.to_string()],
                ..Inspected::default()
            };
        }
    };
    let unread = unread_keys(&value);
    let findings = match Example::from_value(value) {
        Ok(Example::Chat(conversation)) => check(&conversation)
            .iter()
            .map(ToString::to_string)
            .collect(),
        Ok(Example::Text(_)) => Vec::new(),
        Err(e) => vec![e.to_string()],
    };
    Inspected { findings, unread }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chat(arguments: Value) -> Value {
        json!({"id": 7, "messages": [
            {"role": "user", "content": "q", "name": "me"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": arguments}}]}
        ], "tools": [{"name": "t", "parameters": {"type": "object", "properties": {"n": {"maximum": 14}}}}]})
    }

    #[test]
    fn a_row_is_judged_by_its_calls_and_its_unread_keys_are_named() {
        let good = inspect(Ok(chat(json!({"n": 1}))));
        assert_eq!(good.findings, [""; 0]);
        assert!(good.unread.contains("id"), "{good:?}");
        let bad = inspect(Ok(chat(json!({"n": 15}))));
        assert_eq!(
            bad.findings,
            ["message 1 tool_call 0: parameter 'n' is 15, above the maximum 14"]
        );
        assert_eq!(bad.unread, good.unread);
    }

    #[test]
    fn what_is_no_row_is_a_finding_and_plain_text_is_none() {
        assert_eq!(
            inspect(Err(RowError::NotJson("x".into()))).findings,
            ["the row is not JSON: x"]
        );
        assert_eq!(
            inspect(Ok(json!({"messages": []}))).findings,
            ["the row is empty"]
        );
        assert_eq!(inspect(Ok(json!({"text": "a"}))), Inspected::default());
    }
}
