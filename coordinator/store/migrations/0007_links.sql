-- The page is opened by links that are made one by one, and not by a key of the token any more.
ALTER TABLE tokens DROP COLUMN page_hash;
