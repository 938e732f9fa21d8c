-- As SQLite's step 0006. Lists are by state and number. Rows of earlier versions have '' until the program that
-- leads has read them, and rows that cannot be read have it for good.
ALTER TABLE jobs ADD COLUMN state TEXT COLLATE "C" NOT NULL DEFAULT '';
CREATE INDEX jobs_by_state ON jobs (state, id);

-- What a coordinator has to know of each ended job, as JSON: a start reads these rows, and not those of the jobs.
CREATE TABLE ended (
    job   BIGINT PRIMARY KEY,
    brief TEXT NOT NULL
);
