-- One row. `commits` counts transactions, so that a second connection can tell whether it sees the last one. `job` and
-- `token` are the greatest that were ever given: they are not given again, also where the row that had them cannot be
-- read any more.
CREATE TABLE counters (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    commits INTEGER NOT NULL,
    job     INTEGER NOT NULL,
    token   INTEGER NOT NULL
) STRICT;

-- A row that is no JSON does not tell its tokens: a wide margin stands in for them.
INSERT INTO counters (one, commits, job, token)
SELECT
    1,
    0,
    COALESCE((SELECT MAX(id) FROM jobs), 0),
    COALESCE((
        SELECT MAX(CAST(attempt.value ->> '$.token' AS INTEGER))
        FROM jobs, json_each(CASE WHEN json_valid(body) THEN body ELSE '{}' END, '$.attempts') AS attempt
        WHERE attempt.type = 'object'
    ), 0) + 1000000 * (SELECT COUNT(*) > 0 FROM jobs WHERE NOT json_valid(body));
