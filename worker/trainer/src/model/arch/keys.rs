//! The keys of a JSON object, read by type: a key of another type is a fault that names key and
//! value.

use serde_json::{Map, Value};

/// An object and what messages put before its keys.
pub(super) struct Keys<'a> {
    object: &'a Map<String, Value>,
    prefix: String,
}

impl<'a> Keys<'a> {
    pub(super) fn new(value: &'a Value) -> Result<Self, String> {
        let object = value
            .as_object()
            .ok_or_else(|| format!("it is {value}, not an object of keys"))?;
        Ok(Self {
            object,
            prefix: String::new(),
        })
    }

    /// The full name of `key`.
    pub(super) fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Every key that has a value; `null` is none.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.object
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.as_str(), value))
    }

    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, be it with `null`.
    pub(super) fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    fn typed<T>(
        &self,
        key: &str,
        kind: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        read(value)
            .map(Some)
            .ok_or_else(|| format!("`{}` is {value}, not {kind}", self.name(key)))
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Self>, String> {
        let prefix = format!("{}.", self.name(key));
        Ok(self
            .typed(key, "an object", Value::as_object)?
            .map(|object| Self { object, prefix }))
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        self.typed(key, "a text", Value::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.typed(key, "true or false", Value::as_bool)
    }

    /// A count, at least 1.
    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.typed(key, "a whole number above 0 that 32 bits hold", |v| {
            v.as_u64()
                .filter(|&n| n > 0 && n <= u64::from(u32::MAX))
                .map(|n| n as usize)
        })
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, String> {
        self.typed(key, "a list of texts", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, String> {
        self.typed(key, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    /// A number above 0.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        self.typed(key, "a number above 0", |v| v.as_f64().filter(|&n| n > 0.0))
    }

    pub(super) fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("`{}` is missing", self.name(key)))
    }
}
