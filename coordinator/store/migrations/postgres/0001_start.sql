-- The tables of SQLite's schema after its step 0005, in the words of PostgreSQL. `spec` and `body` are text and not jsonb:
-- jsonb refuses what JSON may hold, and gives numbers back in another form.
CREATE TABLE jobs (
    id    BIGINT PRIMARY KEY,
    spec  TEXT NOT NULL,
    body  TEXT NOT NULL
);

CREATE TABLE metrics (
    job     BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    step    BIGINT NOT NULL,
    unix_ms BIGINT NOT NULL,
    vals    TEXT NOT NULL,
    PRIMARY KEY (job, seq)
);

CREATE TABLE logs (
    job     BIGINT NOT NULL,
    seq     BIGINT NOT NULL,
    unix_ms BIGINT NOT NULL,
    level   TEXT NOT NULL,
    text    TEXT NOT NULL,
    token   BIGINT NOT NULL,
    PRIMARY KEY (job, seq)
);

-- `who`, `origin` and `act` are NULL where nobody asked for what the entry tells.
CREATE TABLE journal (
    seq     BIGINT PRIMARY KEY,
    unix_ms BIGINT NOT NULL,
    job     BIGINT,
    worker  TEXT,
    kind    TEXT NOT NULL,
    text    TEXT NOT NULL,
    who     TEXT,
    origin  TEXT,
    act     TEXT
);

CREATE TABLE configs (
    name     TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    yaml     TEXT NOT NULL,
    hash     TEXT NOT NULL,
    unix_ms  BIGINT NOT NULL,
    PRIMARY KEY (name, revision)
);

CREATE TABLE drains (
    worker  TEXT PRIMARY KEY,
    unix_ms BIGINT NOT NULL,
    reason  TEXT NOT NULL
);

CREATE TABLE tokens (
    id        BIGINT PRIMARY KEY,
    name      TEXT NOT NULL,
    role      TEXT NOT NULL,
    hash      TEXT NOT NULL,
    page_hash TEXT NOT NULL,
    created   BIGINT NOT NULL,
    expires   BIGINT,
    revoked   BIGINT,
    used_day  BIGINT
);

-- One row. `journal` is the number of the last entry: a sequence would leave gaps where a transaction fails.
CREATE TABLE counters (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    commits BIGINT NOT NULL,
    job     BIGINT NOT NULL,
    token   BIGINT NOT NULL,
    journal BIGINT NOT NULL
);

INSERT INTO counters (one, commits, job, token, journal) VALUES (1, 0, 0, 0, 0);

-- One row: which coordinator this database makes of who leads with it.
CREATE TABLE identity (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT NOT NULL
);

INSERT INTO identity (one, id)
SELECT 1, left(encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'), 32);

-- One row: who leads, and under which epoch. Every transaction that writes holds the row shared, so that the epoch cannot
-- rise under it; who has another epoch writes nothing.
CREATE TABLE leader (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    epoch   BIGINT NOT NULL,
    address TEXT NOT NULL,
    unix_ms BIGINT NOT NULL
);

INSERT INTO leader (one, epoch, address, unix_ms) VALUES (1, 0, '', 0);
