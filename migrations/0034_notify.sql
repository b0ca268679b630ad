-- Whom people want to be told of what, and how far each has come. Conventions as in 0001_jobs.sql. What a hook is, the settings say: a row is only what must outlive the daemon.

-- A hook of the settings.
CREATE TABLE hooks (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    -- Its name in the settings. One that is there no more has no row.
    name     TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 50),
    -- The last event and the last notice that were dealt with, what failed and since when: JSON of domain::notify::Standing.
    standing TEXT    NOT NULL CHECK (json_type(standing) = 'object'),
    seal     INTEGER NOT NULL
) STRICT;

-- What has happened to what is no job, so that no event tells of it. The last thousand stay.
CREATE TABLE notices (
    -- Counts from 1 without gaps: who finds one has missed something.
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    at_us    INTEGER NOT NULL,
    -- JSON of domain::notify::Notice.
    body     TEXT    NOT NULL CHECK (json_type(body) = 'object'),
    seal     INTEGER NOT NULL
) STRICT;
