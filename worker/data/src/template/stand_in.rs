//! A message with its texts replaced: the parts of the rendered conversation that change belong to
//! it.

use serde_json::{Map, Value};

/// How much of a call is replaced.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Calls {
    /// Its name and its arguments.
    Whole,
    Arguments,
    Kept,
}

/// `message` with its text and reasoning, and as much of its calls as `calls` says, replaced by
/// `mark`.
pub(super) fn stand_in(message: &Value, mark: char, calls: Calls) -> Value {
    let mark = mark.to_string();
    let mut message = message.clone();
    let mut called = false;
    if calls != Calls::Kept {
        for call in message
            .get_mut("tool_calls")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if calls == Calls::Whole {
                call["function"]["name"] = mark.as_str().into();
            }
            call["function"]["arguments"] =
                Value::Object(Map::from_iter([(mark.clone(), mark.as_str().into())]));
            called = true;
        }
    }
    for name in ["reasoning_content", "thinking"] {
        if message
            .get(name)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
        {
            message[name] = mark.as_str().into();
        }
    }
    let says = message["content"]
        .as_str()
        .is_some_and(|text| !text.is_empty());
    // An empty text beside calls is often left out by the template: replacing it would add a part.
    if says || !called {
        message["content"] = mark.into();
    }
    message
}
