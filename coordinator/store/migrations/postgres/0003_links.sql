-- As SQLite's step 0007: the page is opened by links that are made one by one, and not by a key of the token any more.
ALTER TABLE tokens DROP COLUMN page_hash;
