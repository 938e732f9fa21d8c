use qlora_codes::Code;
use serde_json::Value;

use super::*;
use crate::json_schema;
use crate::layers::Layers;

/// The property of `key`.
fn property<'a>(schema: &'a Value, key: &str) -> &'a Value {
    let path = key.replace('.', "/properties/");
    schema
        .pointer(&format!("/properties/{path}"))
        .unwrap_or_else(|| panic!("the schema has no {key}"))
}

fn is_number(property: &Value) -> bool {
    let kinds = match &property["type"] {
        Value::Array(kinds) => kinds.clone(),
        kind => vec![kind.clone()],
    };
    kinds
        .iter()
        .any(|kind| kind == "integer" || kind == "number")
}

#[test]
fn every_number_of_the_schema_has_one_range_in_the_order_of_the_keys() {
    let schema = json_schema();
    let sections = schema["properties"].as_object().expect("sections");
    let mut numbers = Vec::new();
    for (section, keys) in sections {
        for (key, property) in keys["properties"].as_object().into_iter().flatten() {
            numbers.extend(is_number(property).then(|| format!("{section}.{key}")));
        }
    }
    let ranged: Vec<&str> = RANGES.iter().map(|range| range.key).collect();
    assert_eq!(ranged, numbers);
}

/// Values at, just inside and just outside the ends of `limits`.
fn probes(limits: Limits, whole: bool) -> Vec<f64> {
    let ends = match limits {
        From(low) => vec![low],
        Within(low, high) | Below(low, high) | UpTo(low, high) => vec![low, high],
        PowerOfTwo(low, high) => vec![low as f64, high as f64, 48.0],
    };
    let step = if whole { 1.0 } else { 1e-6 };
    let around = |end: f64| [end - step, end, end + step, end * 2.0];
    ends.into_iter().flat_map(around).collect()
}

/// Whether the checks refuse `key` for its range or its type.
fn is_refused(key: &str, value: f64) -> bool {
    let base = "model: {base: x}\ndata: {train: t.jsonl}";
    let layers = Layers {
        file: Some(("x.yaml".into(), base.into())),
        set: vec![format!("{key}={value}")],
        ..Layers::default()
    };
    let faults = layers
        .resolve()
        .err()
        .map(|errors| errors.0)
        .unwrap_or_default();
    faults.iter().any(|fault| {
        let of_range = RANGES
            .iter()
            .any(|range| range.key == key && fault.help.as_deref() == Some(range.help));
        fault.message.contains(&format!("`{key}`")) && (fault.code == Code::WrongType || of_range)
    })
}

#[test]
fn checks_and_schema_refuse_the_same_values_at_both_ends() {
    let schema = json_schema();
    let mut refused = 0;
    for range in RANGES {
        let property = property(&schema, range.key);
        let validator = jsonschema::validator_for(property).expect("a schema");
        let whole = property["type"].to_string().contains("integer");
        for value in probes(range.limits, whole) {
            let given = if whole {
                (value as i64).into()
            } else {
                value.into()
            };
            let by_schema = !validator.is_valid(&given);
            assert_eq!(
                is_refused(range.key, value),
                by_schema,
                "{}={value}",
                range.key
            );
            refused += usize::from(by_schema);
        }
    }
    assert!(refused > RANGES.len(), "only {refused} values are outside");
}

#[test]
fn a_range_that_the_type_does_not_hold_has_a_way_out() {
    let schema = json_schema();
    for range in RANGES {
        let by_type = range.limits == From(0.0)
            && property(&schema, range.key)["type"]
                .to_string()
                .contains("integer");
        assert_eq!(range.help.is_empty(), by_type, "{}", range.key);
    }
}

/// Whatever key they are given for: a run would train nothing with them, or only NaN.
#[test]
fn numbers_that_single_precision_loses_are_refused() {
    let schema = json_schema();
    let mut seen = 0;
    for range in RANGES {
        let kind = property(&schema, range.key)["type"].to_string();
        if kind.contains("integer") {
            continue;
        }
        for value in ["1e-46", "1e-300", "1e39", "1e300", "1e308"] {
            let value: f64 = value.parse().expect("a number");
            assert!(is_refused(range.key, value), "{}={value}", range.key);
            seen += 1;
        }
        if let Below(..) = range.limits {
            for value in [0.999_999_999_99, 1.0 - f64::EPSILON] {
                assert!(is_refused(range.key, value), "{}={value}", range.key);
            }
        }
    }
    assert!(seen > 50, "only {seen} values");
}

#[test]
fn a_number_of_many_zeros_is_written_with_its_exponent() {
    for (number, text) in [
        (1e300, "1e300"),
        (1e-46, "1e-46"),
        (0.0, "0"),
        (20000.0, "20000"),
        (1.000_000_1, "1.0000001"),
        (1e-6, "0.000001"),
    ] {
        assert_eq!(Number::Real(number).to_string(), text);
    }
}
