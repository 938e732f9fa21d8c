//! Reads JSON so that nothing changes on the way: a duplicate key in one object and a whole number
//! beyond 64 bits are refused; a fraction becomes the nearest `f64`, as in Python.
//!
//! `serde_json` alone keeps the last of two keys, turns long whole numbers into fractions and may
//! miss the nearest fraction by one bit. Its parser does the reading here; the digits of each
//! number are taken from the text.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// `text` without the byte order mark that editors put before it.
pub fn unmarked(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// The value that `text` holds.
///
/// # Errors
/// It is not JSON, or reading would change it; the message names the key or the number, and the
/// column.
pub fn parse(text: &str) -> Result<Value, serde_json::Error> {
    let mut numbers = Numbers {
        text: text.as_bytes(),
        at: 0,
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let value = Strict(Some(&mut numbers)).deserialize(&mut deserializer);
    let value = value.map_err(half_characters_named)?;
    deserializer.end()?;
    Ok(value)
}

/// `error` in words that name half of a character, where it is one: JSON writes characters beyond
/// U+FFFF as two, and Python writes what is left of a text that was cut between them.
fn half_characters_named(error: serde_json::Error) -> serde_json::Error {
    let text = error.to_string();
    let of_halves = [
        "lone leading surrogate in hex escape",
        "unexpected end of hex escape",
    ];
    let Some(place) = of_halves.iter().find_map(|fault| text.strip_prefix(fault)) else {
        return error;
    };
    let fault = "a lone surrogate, one half of a character such as \\ud83d without the other; write the whole character, or leave it out";
    serde_json::Error::custom(format!("{fault}{place}"))
}

/// The value of a settings file, whose keys stand once. Its numbers may be longer than 64 bits:
/// transformers writes a `model_max_length` of 31 digits.
///
/// # Errors
/// It is not JSON, or a key stands twice in one object; the message names the key and the line.
pub fn parse_settings(text: &str) -> Result<Value, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(unmarked(text));
    let value = Strict(None).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

/// The number literals of a JSON text, in order.
struct Numbers<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Numbers<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let mut quoted = false;
        while let Some(&byte) = self.text.get(self.at) {
            match byte {
                b'\\' if quoted => self.at += 1,
                b'"' => quoted = !quoted,
                b'-' | b'0'..=b'9' if !quoted => break,
                _ => {}
            }
            self.at += 1;
        }
        let rest = self.text.get(self.at..)?;
        let is_part = |byte: &&u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
        let length = rest.iter().take_while(is_part).count();
        self.at += length;
        std::str::from_utf8(&rest[..length])
            .ok()
            .filter(|literal| !literal.is_empty())
    }
}

/// The number that `literal` stands for.
fn number(literal: &str) -> Result<Value, String> {
    if literal.contains(['.', 'e', 'E']) {
        let fraction = literal.parse().ok().and_then(Number::from_f64);
        return fraction
            .map(Value::Number)
            .ok_or_else(|| format!("the number {literal} is too large"));
    }
    let whole = literal
        .parse::<i64>()
        .map(Value::from)
        .or_else(|_| literal.parse::<u64>().map(Value::from));
    whole.map_err(|_| {
        format!("the whole number {literal} does not fit into 64 bits; write it as text")
    })
}

/// Reads one value; its numbers from their digits, where those are given.
struct Strict<'n, 't>(Option<&'n mut Numbers<'t>>);

impl<'de> DeserializeSeed<'de> for Strict<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Strict<'_, '_> {
    fn number<E: Error>(self, parsed: Value) -> Result<Value, E> {
        let Some(numbers) = self.0 else {
            return Ok(parsed);
        };
        let literal = numbers
            .next()
            .ok_or_else(|| E::custom("a number has no digits"))?;
        number(literal).map_err(E::custom)
    }
}

impl<'de> Visitor<'de> for Strict<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.number(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(Strict(self.0.as_deref_mut()))? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!(
                    "the key `{key}` stands twice in one object"
                )));
            }
            let value = entries.next_value_seed(Strict(self.0.as_deref_mut()))?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_read_as_they_are_written() {
        let text = r#" {"a-1": [-3, 18446744073709551615, -0, 0.1, 1E3, "2 \" 3", {"b\\": -1.5e-7}], "c": null, "d": true} "#;
        let wanted = json!({"a-1": [-3, u64::MAX, 0, 0.1, 1000.0, "2 \" 3", {"b\\": -1.5e-7}], "c": null, "d": true});
        assert_eq!(parse(text).expect("JSON"), wanted);
        assert_eq!(parse("7").expect("JSON"), json!(7));
    }

    #[test]
    fn fractions_are_the_nearest_ones() {
        for literal in [
            "0.1",
            "9007199254740993.0",
            "2.2250738585072011e-308",
            "31.245270191439438",
            "1.7976931348623157e308",
        ] {
            let wanted: f64 = literal.parse().expect("a number");
            assert_eq!(
                parse(&format!("[{literal}]")).expect("JSON")[0].as_f64(),
                Some(wanted),
                "{literal}"
            );
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_content() {
        assert_eq!(
            parse_settings("\u{feff}{\"a\": 1}").expect("settings"),
            json!({"a": 1})
        );
        assert!(parse_settings("{\u{feff}\"a\": 1}").is_err());
    }

    #[test]
    fn settings_may_have_long_numbers_but_no_key_twice() {
        let text =
            r#"{"model_max_length": 1000000000000000019884624838656, "a": [-1, 2.5, {"b": 3}]}"#;
        let value = parse_settings(text).expect("settings");
        assert_eq!(value["a"], json!([-1, 2.5, {"b": 3}]));
        assert_eq!(value["model_max_length"].as_f64(), Some(1e30));
        let fault = parse_settings("{\"a\": {\"k\": 1,\n\"k\": 1}}")
            .expect_err("a key twice")
            .to_string();
        assert!(fault.contains("`k`") && fault.contains("line 2"), "{fault}");
    }

    #[test]
    fn what_reading_would_change_is_refused_by_name() {
        for (text, named) in [
            (r#"{"a": {"b": 1, "c": 2, "b": 3}}"#, "`b`"),
            (r#"{"b": 1, "\u0062": 2}"#, "`b`"),
            (r#"[{"x": 1}, {"k": [1], "k": [1]}]"#, "`k`"),
            ("[90071992547409930071992547]", "90071992547409930071992547"),
            ("[1, -9223372036854775809]", "-9223372036854775809"),
            (r#"{"n": 18446744073709551616}"#, "18446744073709551616"),
            ("[1e999]", "number out of range"),
            ("[NaN]", "expected"),
            (r#"["a \ud83d"]"#, "a lone surrogate"),
            (r#"["\ud83d\n"]"#, "a lone surrogate"),
            (r#"["\ud83d\u0041"]"#, "a lone surrogate"),
            (r#"["\ude00"]"#, "a lone surrogate"),
            (r#"{"\ud83d": 1}"#, "at line 1 column"),
            ("[1] 2", "trailing"),
        ] {
            let fault = parse(text).expect_err(text).to_string();
            assert!(fault.contains(named), "{text}: {fault}");
        }
    }
}
