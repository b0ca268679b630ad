-- Successive halving: members of an array that are stopped early since others do better. Conventions as in 0001_jobs.sql.

-- Why a member was stopped early; a later retry makes it none.
ALTER TABLE jobs ADD COLUMN stopped_early TEXT
    CHECK (stopped_early IS NULL OR (array_id IS NOT NULL AND length(stopped_early) > 0 AND state IN ('running', 'cancelled')));

-- What each member had when it came to a rung (domain/array/halving.rs): what later ones are compared with.
CREATE TABLE rungs (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    array_id INTEGER NOT NULL REFERENCES arrays (id),
    -- From 0.
    rung     INTEGER NOT NULL CHECK (rung >= 0),
    job_id   INTEGER NOT NULL,
    -- Those of the checkpoint at which it was compared.
    steps    INTEGER NOT NULL CHECK (steps >= 0),
    -- Of the metric, as JSON.
    value    TEXT    NOT NULL CHECK (json_type(value) IN ('real', 'integer')),
    seal     INTEGER NOT NULL,
    -- Each comes to a rung once.
    UNIQUE (array_id, rung, job_id)
) STRICT;
