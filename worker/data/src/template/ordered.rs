//! Refuses what Python refuses in filters that sort items or tell them apart, before minijinja's
//! own filters run: minijinja orders values of every type.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::comparable::{check_hashable, check_orderable};

/// Refuses what Python's filter `name` refuses of its items.
pub(super) fn check(state: &mut State, name: &str, args: &mut [Value]) -> Result<(), Error> {
    match name {
        "sort" => {
            // Python compares lists of keys: what is equal has no need of an order.
            let columns = keys(state, name, args)?;
            let rows = columns.first().map_or(0, Vec::len);
            let row = |place: usize| {
                columns
                    .iter()
                    .map(|keys| keys[place].clone())
                    .collect::<Vec<_>>()
                    .into()
            };
            check_orderable(name, &(0..rows).map(row).collect::<Vec<Value>>())?;
        }
        "min" | "max" | "groupby" => {
            for keys in keys(state, name, args)? {
                check_orderable(name, &keys)?;
            }
        }
        "unique" => {
            for keys in keys(state, name, args)? {
                keys.iter()
                    .try_for_each(|key| check_hashable("unique", key))?;
            }
        }
        "sum" => {
            let (positional, kwargs): (&[Value], Kwargs) = from_args(args)?;
            let start: Option<Value> = kwargs.get("start")?;
            if start
                .as_ref()
                .or(positional.get(2))
                .is_some_and(|start| start.as_str().is_some())
            {
                return Err(invalid("`sum` does not add texts; use `join`".into()));
            }
        }
        _ => {}
    }
    Ok(())
}

/// Refuses what `dictsort` cannot put into an order.
pub(super) fn check_dict(value: &Value, by_value: bool) -> Result<(), Error> {
    if value.kind() != ValueKind::Map {
        return Ok(());
    }
    let keys: Vec<Value> = value.try_iter()?.collect();
    let items = if by_value {
        keys.iter()
            .map(|key| value.get_item(key))
            .collect::<Result<_, _>>()?
    } else {
        keys
    };
    check_orderable("dictsort", &items)
}

/// What the items are compared by, one list for each attribute. The items become a list: an
/// iterator is read once.
fn keys(state: &mut State, name: &str, args: &mut [Value]) -> Result<Vec<Vec<Value>>, Error> {
    let Some(first) = args.first_mut() else {
        return Ok(Vec::new());
    };
    let items: Vec<Value> = first.try_iter()?.collect();
    *first = Value::from(items.clone());
    let list = first.clone();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(args)?;
    let named: Option<Value> = kwargs.get("attribute")?;
    let place = positional.get(1).filter(|_| name == "groupby");
    let attribute = named
        .as_ref()
        .or(place)
        .filter(|attribute| !attribute.is_none());
    let default: Option<Value> = kwargs.get("default")?;
    let Some(attribute) = attribute else {
        return Ok(vec![items]);
    };
    // What is no text is refused by the filter itself.
    let names = attribute
        .as_str()
        .into_iter()
        .flat_map(|names| names.split(','))
        .filter(|name| !name.trim().is_empty());
    names
        .map(|name| by_attribute(state, &list, name.trim(), default.as_ref()))
        .collect()
}

fn by_attribute(
    state: &mut State,
    list: &Value,
    name: &str,
    default: Option<&Value>,
) -> Result<Vec<Value>, Error> {
    let values = state.apply_filter(
        "_map",
        &[
            list.clone(),
            Kwargs::from_iter([("attribute", Value::from(name))]).into(),
        ],
    )?;
    let known = |value: Value| {
        if value.is_undefined() {
            default.cloned().unwrap_or(value)
        } else {
            value
        }
    };
    Ok(values.try_iter()?.map(known).collect())
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
