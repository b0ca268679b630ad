-- Datasets and their versions: what data was when somebody gave it a number. Conventions as in 0001_jobs.sql.

-- The manifest of the dataset's version that the job reads. None: its spec names files.
ALTER TABLE job_specs ADD COLUMN dataset TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.data.pinned.manifest', spec ->> '$.infer.data.pinned.manifest')) VIRTUAL;
CREATE INDEX job_specs_dataset ON job_specs (dataset) WHERE dataset IS NOT NULL;

-- The same of the schedule's jobs.
ALTER TABLE schedules ADD COLUMN dataset TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.data.pinned.manifest', spec ->> '$.infer.data.pinned.manifest')) VIRTUAL;
CREATE INDEX schedules_dataset ON schedules (dataset) WHERE dataset IS NOT NULL;

-- A name under which versions are counted. It stays when all of them were removed, so that a number is never used twice.
CREATE TABLE datasets (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    name         TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    -- The last number given.
    last_version INTEGER NOT NULL CHECK (last_version BETWEEN 0 AND 4294967295),
    created_us   INTEGER NOT NULL,
    seal         INTEGER NOT NULL
) STRICT;

-- A version: what it is of never changes. One that was removed keeps its row.
CREATE TABLE dataset_versions (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    dataset    TEXT    NOT NULL REFERENCES datasets (name),
    -- Counts the dataset's versions from 1.
    version    INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    -- Its manifest and what that says in short: JSON of domain::registry::Dataset.
    content    TEXT    NOT NULL CHECK (json_type(content) = 'object'),
    -- Who added it, a Unix user id, and when.
    created_by INTEGER NOT NULL CHECK (created_by BETWEEN 0 AND 4294967295),
    created_us INTEGER NOT NULL,
    -- The same of who removed it.
    removed_by INTEGER CHECK (removed_by BETWEEN 0 AND 4294967295),
    removed_us INTEGER CHECK ((removed_us IS NULL) = (removed_by IS NULL)),
    seal       INTEGER NOT NULL,
    -- The manifest of one that was not removed: what must stay.
    manifest   TEXT    GENERATED ALWAYS AS (iif(removed_us IS NULL, content ->> '$.manifest', NULL)) VIRTUAL,
    UNIQUE (dataset, version)
) STRICT;

CREATE INDEX dataset_versions_manifest ON dataset_versions (manifest) WHERE manifest IS NOT NULL;
