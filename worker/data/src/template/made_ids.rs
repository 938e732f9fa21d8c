//! Ids for templates that refuse calls without them, as Mistral's do: the same in every run.

use std::collections::HashSet;

use serde_json::Value as Json;

/// Calls without an id with one of nine letters and digits by their place, and results without one
/// with that of their call; ids that the row gives stay.
pub(super) fn with_made_ids(messages: &[Json]) -> Vec<Json> {
    let mut messages = with_ids_of_results(messages);
    let given: HashSet<Json> = ids(&messages).cloned().collect();
    let mut made = 0usize;
    // Ids of the calls whose results may follow, in order.
    let mut open: Vec<Json> = Vec::new();
    for message in &mut messages {
        if message["role"] == "assistant" {
            open.clear();
        }
        for call in message
            .get_mut("tool_calls")
            .and_then(Json::as_array_mut)
            .into_iter()
            .flatten()
        {
            made += 1;
            if call["id"].is_null() {
                while given.contains(&Json::String(made_id(made))) {
                    made += 1;
                }
                call["id"] = made_id(made).into();
            }
            open.push(call["id"].clone());
        }
        if message["role"] == "tool" && !open.is_empty() {
            let place = open
                .iter()
                .position(|id| *id == message["tool_call_id"])
                .unwrap_or(0);
            let id = open.remove(place);
            if message["tool_call_id"].is_null() {
                message["tool_call_id"] = id;
            }
        }
    }
    messages
}

fn made_id(number: usize) -> String {
    format!("call{number:05}")
}

/// Ids that calls and results give.
fn ids(messages: &[Json]) -> impl Iterator<Item = &Json> {
    let calls = messages
        .iter()
        .filter_map(|message| message["tool_calls"].as_array())
        .flatten();
    let results = messages.iter().map(|message| &message["tool_call_id"]);
    calls
        .map(|call| &call["id"])
        .chain(results)
        .filter(|id| !id.is_null())
}

/// Calls without an id with those that their results name, in order: ids of results that no call
/// before them has.
fn with_ids_of_results(messages: &[Json]) -> Vec<Json> {
    let mut messages = messages.to_vec();
    for at in 0..messages.len() {
        let own: Vec<Json> = ids(&messages[at..=at]).cloned().collect();
        let results = messages[at + 1..]
            .iter()
            .take_while(|message| message["role"] == "tool");
        let named: Vec<Json> = results
            .map(|result| &result["tool_call_id"])
            .filter(|id| !id.is_null() && !own.contains(id))
            .cloned()
            .collect();
        let calls = messages[at]
            .get_mut("tool_calls")
            .and_then(Json::as_array_mut)
            .into_iter()
            .flatten();
        for (call, id) in calls.filter(|call| call["id"].is_null()).zip(named) {
            call["id"] = id;
        }
    }
    messages
}
