//! The tables that both databases have, but for their counters, and rows on their way from one to the
//! other.

use std::fmt::Write;

/// A table that both databases have.
pub(crate) struct Table {
    pub name: &'static str,
    pub columns: &'static [(&'static str, Kind)],
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Number,
    Text,
}

use Kind::{Number, Text};

/// In the order in which they are moved; a test holds them to both schemas.
pub(crate) const TABLES: [Table; 8] = [
    Table {
        name: "jobs",
        columns: &[
            ("id", Number),
            ("spec", Text),
            ("body", Text),
            ("state", Text),
        ],
    },
    Table {
        name: "ended",
        columns: &[("job", Number), ("brief", Text)],
    },
    Table {
        name: "metrics",
        columns: &[
            ("job", Number),
            ("seq", Number),
            ("step", Number),
            ("unix_ms", Number),
            ("vals", Text),
        ],
    },
    Table {
        name: "logs",
        columns: &[
            ("job", Number),
            ("seq", Number),
            ("unix_ms", Number),
            ("level", Text),
            ("text", Text),
            ("token", Number),
        ],
    },
    Table {
        name: "journal",
        columns: &[
            ("seq", Number),
            ("unix_ms", Number),
            ("job", Number),
            ("worker", Text),
            ("kind", Text),
            ("text", Text),
            ("who", Text),
            ("origin", Text),
            ("act", Text),
        ],
    },
    Table {
        name: "configs",
        columns: &[
            ("name", Text),
            ("revision", Number),
            ("yaml", Text),
            ("hash", Text),
            ("unix_ms", Number),
        ],
    },
    Table {
        name: "drains",
        columns: &[("worker", Text), ("unix_ms", Number), ("reason", Text)],
    },
    Table {
        name: "tokens",
        columns: &[
            ("id", Number),
            ("name", Text),
            ("role", Text),
            ("hash", Text),
            ("created", Number),
            ("expires", Number),
            ("revoked", Number),
            ("used_day", Number),
        ],
    },
];

impl Table {
    /// The names of the columns, for a statement.
    pub fn names(&self) -> String {
        let mut names = String::new();
        for (i, (name, _)) in self.columns.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            // Writing to a text does not fail.
            let _ = write!(names, "{comma}{name}");
        }
        names
    }
}

/// Rows of one table, column by column.
pub(crate) struct Chunk {
    pub table: &'static Table,
    pub rows: u64,
    pub columns: Vec<Values>,
}

impl Chunk {
    /// Of no rows yet.
    pub fn of(table: &'static Table) -> Self {
        let columns = table.columns.iter().map(|(_, kind)| match kind {
            Kind::Number => Values::Numbers(Vec::new()),
            Kind::Text => Values::Texts(Vec::new()),
        });
        Self {
            table,
            rows: 0,
            columns: columns.collect(),
        }
    }
}

/// The values of one column.
pub(crate) enum Values {
    Numbers(Vec<Option<i64>>),
    Texts(Vec<Option<String>>),
}

/// What a coordinator is known by, and what it must not give out again.
pub(crate) struct Identity {
    pub id: String,
    /// The greatest job and token that were ever given.
    pub greatest: (i64, i64),
}

/// Every column that is moved, as `table.column`.
pub fn moved_columns() -> impl Iterator<Item = String> {
    let of = |table: &'static Table| {
        let columns = table.columns.iter();
        columns.map(|(column, _)| format!("{}.{column}", table.name))
    };
    TABLES.iter().flat_map(of)
}
