//! Keys of rows that nothing reads, and how often they occur. They are reported, since a misspelled
//! key would otherwise be ignored silently.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{message, shapes};

/// Keys that are named; rows that each have keys of their own would name millions.
const UNREAD_NAMED: usize = 50;

/// Counts a row that has the unread `key`.
pub fn note_unread(found: &mut BTreeMap<String, usize>, key: String) {
    if found.len() < UNREAD_NAMED || found.contains_key(&key) {
        *found.entry(key).or_default() += 1;
    }
}

/// The keys of a row and of its messages that nothing reads.
pub(crate) fn unread_keys(row: &Value) -> BTreeSet<String> {
    let messages = [
        "messages",
        "conversations",
        "conversation",
        "prompt",
        "completion",
    ];
    let messages = messages
        .iter()
        .filter_map(|key| row[*key].as_array())
        .flatten();
    let of_messages = messages
        .flat_map(|message| message::unread(message).map(|key| format!("messages[].{key}")));
    shapes::unread(row)
        .map(str::to_owned)
        .chain(of_messages)
        .collect()
}
