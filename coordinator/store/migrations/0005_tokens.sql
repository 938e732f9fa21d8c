-- Tokens beside the first one, which lies in a file. `hash` is SHA-256 of a token, `page_hash` that of the key that opens
-- the page with it; neither gives the token back. Times are unix milliseconds, days are counted from 1970.
CREATE TABLE tokens (
    id        INTEGER PRIMARY KEY,
    name      TEXT NOT NULL,
    role      TEXT NOT NULL,
    hash      TEXT NOT NULL,
    page_hash TEXT NOT NULL,
    created   INTEGER NOT NULL,
    expires   INTEGER,
    revoked   INTEGER,
    used_day  INTEGER
) STRICT;

-- Who asked for what the entry tells, from which address, and what was asked for; NULL where nobody asked.
ALTER TABLE journal ADD COLUMN who TEXT;
ALTER TABLE journal ADD COLUMN origin TEXT;
ALTER TABLE journal ADD COLUMN act TEXT;
