-- Workers that an operator has drained, by name; such a worker may never have registered since the coordinator started.
CREATE TABLE drains (
    worker  TEXT PRIMARY KEY,
    unix_ms INTEGER NOT NULL,
    reason  TEXT NOT NULL
) STRICT, WITHOUT ROWID;
