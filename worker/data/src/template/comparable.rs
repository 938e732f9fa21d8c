//! Which values Python compares: it orders numbers, texts, and lists of these, each among
//! themselves, and tells hashable values apart. minijinja orders values of every type.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// The order of `a` and `b`, none where one is no number; the kinds that Python does not compare
/// are the error.
pub(super) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, (ValueKind, ValueKind)> {
    let refused = (a.kind(), b.kind());
    match refused {
        (ValueKind::Number | ValueKind::Bool, ValueKind::Number | ValueKind::Bool) => {
            let is_nan = |value: &Value| f64::try_from(value.clone()).is_ok_and(f64::is_nan);
            Ok((!is_nan(a) && !is_nan(b)).then(|| a.cmp(b)))
        }
        (ValueKind::String, ValueKind::String) => Ok(Some(a.cmp(b))),
        (ValueKind::Seq, ValueKind::Seq) if a.is_tuple() == b.is_tuple() => {
            let (Ok(left), Ok(right)) = (a.try_iter(), b.try_iter()) else {
                return Err(refused);
            };
            match left.zip(right).find(|(left, right)| left != right) {
                Some((left, right)) => order(&left, &right),
                None => Ok(Some(a.len().cmp(&b.len()))),
            }
        }
        _ => Err(refused),
    }
}

/// Whether Python puts the items of a list into an order: values of types that it does not compare
/// have none.
pub(super) fn check_orderable(operation: &str, items: &[Value]) -> Result<(), Error> {
    // Of two types or more, two stand beside each other.
    let mut pairs = items.windows(2);
    pairs
        .try_for_each(|pair| order(&pair[0], &pair[1]).map(drop))
        .map_err(|e| refusal(operation, e))
}

/// Python tells apart what it can hash: no lists, no dictionaries.
pub(super) fn check_hashable(operation: &str, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Seq if value.is_tuple() => value
            .try_iter()?
            .try_for_each(|item| check_hashable(operation, &item)),
        ValueKind::Seq | ValueKind::Map => Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("`{operation}` does not compare a {}", value.kind()),
        )),
        _ => Ok(()),
    }
}

/// The fault of an `operation` between values of types that Python does not compare.
pub(super) fn refusal(operation: &str, (a, b): (ValueKind, ValueKind)) -> Error {
    Error::new(
        ErrorKind::InvalidOperation,
        format!("`{operation}` does not compare {a} with {b}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_values_of_one_type_have_an_order() {
        let list = |items: &[Value]| Value::from(items.to_vec());
        let (one, text) = (Value::from(1), Value::from("a"));
        assert!(
            check_orderable("sort", &[one.clone(), Value::from(2.5), Value::from(true)]).is_ok()
        );
        assert!(
            check_orderable(
                "sort",
                &[
                    list(&[one.clone(), text.clone()]),
                    list(&[2.into(), one.clone()])
                ]
            )
            .is_ok()
        );
        for items in [
            vec![one.clone(), text.clone()],
            vec![Value::from(()), Value::from(())],
            vec![list(&[one.clone(), one.clone()]), list(&[text])],
            vec![one, Value::UNDEFINED],
        ] {
            assert!(check_orderable("sort", &items).is_err(), "{items:?}");
        }
    }
}
