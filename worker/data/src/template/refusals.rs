//! Why a template refuses a conversation with calls: because of the calls, and in which way.

use minijinja::{Error, ErrorKind};
use serde_json::Value as Json;

use super::fault::TemplateError;

/// Why the template does not take the calls of `plain`, nor with `made` ids, where it has `refused`
/// them; `takes` tells which messages it takes.
pub(super) fn of_calls(
    refused: TemplateError,
    plain: &[Json],
    made: &[Json],
    takes: &dyn Fn(&[Json]) -> bool,
) -> TemplateError {
    let takes_text = |messages: &[Json]| takes(&with_text_arguments(messages));
    if takes_text(plain) || takes_text(made) {
        return TemplateError::TextArguments;
    }
    match refused {
        TemplateError::Refused(fault) if is_unforeseen(&fault) && takes(&without_calls(plain)) => {
            TemplateError::Calls(fault)
        }
        refused => refused,
    }
}

fn with_text_arguments(messages: &[Json]) -> Vec<Json> {
    let mut messages = messages.to_vec();
    let calls = messages
        .iter_mut()
        .filter_map(|message| message.get_mut("tool_calls")?.as_array_mut())
        .flatten();
    for arguments in calls.filter_map(|call| call.get_mut("function")?.get_mut("arguments")) {
        *arguments = Json::String(arguments.to_string());
    }
    messages
}

/// Each message as if it were text alone.
fn without_calls(messages: &[Json]) -> Vec<Json> {
    let mut messages = messages.to_vec();
    for message in messages.iter_mut().filter_map(Json::as_object_mut) {
        message.shift_remove("tool_calls");
        if !message.get("content").is_some_and(Json::is_string) {
            message.insert("content".into(), "".into());
        }
    }
    messages
}

/// Whether the template came upon a value that it does not foresee, such as a content that is not
/// there. What it refuses by `raise_exception` it says in its own words, and a filter or method that
/// we lack is no fault of its own.
fn is_unforeseen(fault: &Error) -> bool {
    let says = |words: &[&str]| {
        let detail = fault.detail().unwrap_or_default();
        words.iter().any(|words| detail.contains(words))
    };
    match fault.kind() {
        ErrorKind::InvalidOperation => says(&["operator on unsupported types", "is not iterable"]),
        ErrorKind::UnknownMethod => says(&["none has no method", "undefined has no method"]),
        ErrorKind::UndefinedError | ErrorKind::CannotUnpack => true,
        _ => false,
    }
}
