//! Jinja2's `cycler`: its items in turn, over and over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::value::{Enumerator, Object, Rest};
use minijinja::{Error, ErrorKind, State, Value};

#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    next: AtomicUsize,
}

/// `cycler(*items)`.
pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(Error::new(
            ErrorKind::MissingArgument,
            "a cycler needs items",
        ));
    }
    Ok(Value::from_object(Cycler {
        items: items.0,
        next: AtomicUsize::new(0),
    }))
}

impl Cycler {
    fn item(&self, turn: usize) -> Value {
        self.items[turn % self.items.len()].clone()
    }
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.item(self.next.load(Ordering::Relaxed)))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State,
        method: &str,
        args: &[Value],
    ) -> Result<Value, Error> {
        match (method, args) {
            ("next", []) => Ok(self.item(self.next.fetch_add(1, Ordering::Relaxed))),
            ("reset", []) => {
                self.next.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}
