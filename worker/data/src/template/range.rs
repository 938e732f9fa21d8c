//! Python's `range`: a sequence that prints as the call that makes it.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use minijinja::{Error, Value, functions};

/// It has places, as a list has, but no sums, and no parts that print as a list.
#[derive(Debug)]
struct Range {
    items: Vec<Value>,
    /// As Python prints it.
    text: String,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        // minijinja would add and cut an iterable as a list.
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let is_place = key.is_integer() || key.kind() == ValueKind::Bool;
        let place = i64::try_from(key.clone()).ok().filter(|_| is_place)?;
        let place = if place < 0 {
            place + self.items.len() as i64
        } else {
            place
        };
        self.items.get(usize::try_from(place).ok()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// `range(stop)` or `range(start, stop, step)`.
pub(super) fn range(
    start: isize,
    stop: Option<isize>,
    step: Option<isize>,
) -> Result<Value, Error> {
    let items = functions::range(start, stop, step)?.try_iter()?.collect();
    let (start, stop) = stop.map_or((0, start), |stop| (start, stop));
    let step = step
        .filter(|step| *step != 1)
        .map_or_else(String::new, |step| format!(", {step}"));
    Ok(Value::from_object(Range {
        items,
        text: format!("range({start}, {stop}{step})"),
    }))
}

/// Whether `value` is a range, which is a sequence in Python.
pub(super) fn is_range(value: &Value) -> bool {
    value.downcast_object_ref::<Range>().is_some()
}

/// Whether a range holds `value`; none where `container` is no range.
pub(super) fn range_holds(container: &Value, value: &Value) -> Option<bool> {
    let range = container.downcast_object_ref::<Range>();
    range.map(|range| range.items.contains(value))
}
