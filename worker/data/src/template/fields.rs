//! The texts of messages and tools that a template may print, for those who render them changed.

use serde_json::{Map, Number, Value};

/// Which texts of an assistant's calls are changed: templates look names up, and choose by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depth {
    /// Names of the functions that are called.
    pub names: bool,
    /// Names of arguments.
    pub keys: bool,
    pub values: bool,
}

/// Nothing of calls is changed.
pub(super) const WITHOUT_CALLS: Depth = Depth {
    names: false,
    keys: false,
    values: false,
};

/// From the most to the least.
pub(super) const DEPTHS: [Depth; 5] = [
    Depth {
        names: true,
        keys: true,
        values: true,
    },
    Depth {
        names: true,
        keys: false,
        values: true,
    },
    Depth {
        names: false,
        keys: true,
        values: true,
    },
    Depth {
        names: false,
        keys: false,
        values: true,
    },
    WITHOUT_CALLS,
];

/// The texts of a message beside its calls.
pub(super) const TEXTS: [&str; 3] = ["content", "reasoning_content", "thinking"];

/// What becomes of each text, and of each number in the arguments of a call.
pub(super) struct Change<'c> {
    pub text: &'c dyn Fn(&str) -> String,
    pub number: &'c dyn Fn(&Number) -> Number,
}

impl Change<'_> {
    pub fn message(&self, message: &mut Value, depth: Depth) {
        for name in TEXTS {
            self.field(message.get_mut(name));
        }
        let calls = message
            .get_mut("tool_calls")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten();
        for function in calls.filter_map(|call| call.get_mut("function")) {
            self.field(function.get_mut("name").filter(|_| depth.names));
            if let Some(arguments) = function.get_mut("arguments").filter(|_| depth.values) {
                self.arguments(arguments, depth.keys);
            }
        }
    }

    fn field(&self, field: Option<&mut Value>) {
        if let Some(Value::String(text)) = field {
            *text = (self.text)(text);
        }
    }

    fn arguments(&self, value: &mut Value, keys: bool) {
        match value {
            Value::String(text) => *text = (self.text)(text),
            Value::Number(number) => *number = (self.number)(number),
            Value::Array(items) => items.iter_mut().for_each(|item| self.arguments(item, keys)),
            Value::Object(map) => {
                for (key, mut value) in std::mem::take(map) {
                    self.arguments(&mut value, keys);
                    map.insert(if keys { (self.text)(&key) } else { key }, value);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// What a tool says in words; by their names, templates look tools up.
    pub fn descriptions(&self, tool: &mut Value) {
        match tool {
            Value::Array(items) => items.iter_mut().for_each(|item| self.descriptions(item)),
            Value::Object(map) => self.described(map),
            _ => {}
        }
    }

    fn described(&self, map: &mut Map<String, Value>) {
        self.field(map.get_mut("description"));
        map.values_mut().for_each(|value| self.descriptions(value));
    }
}
