-- What a person does to a job: hold and release, stop, edit. Conventions as in 0001_jobs.sql.
--
-- Some checks of 0001_jobs.sql are widened: a state `held`, an intent `stop`. No row changes by that, so that the text of the checks alone is changed, as SQLite's own manual
-- advises; making the tables anew would copy a million jobs and everything that refers to them.

-- Who holds a held job and why: JSON of domain::Hold.
ALTER TABLE jobs ADD COLUMN hold TEXT CHECK (((hold IS NOT NULL) = (state = 'held')) AND (hold IS NULL OR json_type(hold) = 'object'));

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(sql,
    'state          TEXT    NOT NULL CHECK (state IN (''queued'',', 'state          TEXT    NOT NULL CHECK (state IN (''queued'', ''held'','),
    'intent IS NULL OR (intent = ''cancel'' AND', 'intent IS NULL OR (intent IN (''cancel'', ''stop'') AND')
WHERE type = 'table' AND name = 'jobs';

UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (state IN (''queued'',', 'CHECK (state IN (''queued'', ''held'',')
WHERE type = 'table' AND name = 'counters';

-- Reads the schema again, with the checks as they are now.
PRAGMA writable_schema = RESET;

INSERT INTO counters (state, jobs) VALUES ('held', 0);
