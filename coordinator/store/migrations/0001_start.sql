-- The newest state of every job; `spec` never changes, `body` is everything else.
CREATE TABLE jobs (
    id    INTEGER PRIMARY KEY,
    spec  TEXT NOT NULL,
    body  TEXT NOT NULL
) STRICT;

CREATE TABLE metrics (
    job     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    step    INTEGER NOT NULL,
    unix_ms INTEGER NOT NULL,
    vals    TEXT NOT NULL,
    PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE logs (
    job     INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    unix_ms INTEGER NOT NULL,
    level   TEXT NOT NULL,
    text    TEXT NOT NULL,
    token   INTEGER NOT NULL,
    PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE journal (
    seq     INTEGER PRIMARY KEY AUTOINCREMENT,
    unix_ms INTEGER NOT NULL,
    job     INTEGER,
    worker  TEXT,
    kind    TEXT NOT NULL,
    text    TEXT NOT NULL
) STRICT;

CREATE TABLE configs (
    name     TEXT NOT NULL,
    revision INTEGER NOT NULL,
    yaml     TEXT NOT NULL,
    hash     TEXT NOT NULL,
    unix_ms  INTEGER NOT NULL,
    PRIMARY KEY (name, revision)
) STRICT, WITHOUT ROWID;
