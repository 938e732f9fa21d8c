-- Lists are by state and number. Rows of earlier versions have '' until the program that opens the database has read them,
-- and rows that cannot be read have it for good.
ALTER TABLE jobs ADD COLUMN state TEXT NOT NULL DEFAULT '';
CREATE INDEX jobs_by_state ON jobs (state, id);

-- What a coordinator has to know of each ended job, as JSON: a start reads these rows, and not those of the jobs.
CREATE TABLE ended (
    job   INTEGER PRIMARY KEY,
    brief TEXT NOT NULL
) STRICT;
