-- What an attempt has used up. Conventions as in 0001_jobs.sql.

-- JSON: milliseconds of processors. Part of the row's seal where it is there: rows of before have seals without it.
ALTER TABLE attempts ADD COLUMN used TEXT CHECK (json_valid(used));
