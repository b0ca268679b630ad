-- Models and their versions: what is kept of trainings whatever becomes of the jobs. Conventions as in 0001_jobs.sql.

-- The model of which the trained weights become a version, as the spec says. None: of none.
ALTER TABLE job_specs ADD COLUMN registers TEXT GENERATED ALWAYS AS (spec ->> '$.train.register') VIRTUAL;
CREATE INDEX job_specs_registers ON job_specs (registers) WHERE registers IS NOT NULL;

-- A name under which versions are counted. It stays when all of them were removed, so that a number is never used twice.
CREATE TABLE models (
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    name         TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    -- The last number given.
    last_version INTEGER NOT NULL CHECK (last_version BETWEEN 0 AND 4294967295),
    created_us   INTEGER NOT NULL,
    seal         INTEGER NOT NULL
) STRICT;

-- A version: what it holds never changes. One that was removed keeps its row, and its objects are anybody's to delete.
CREATE TABLE model_versions (
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    model      TEXT    NOT NULL REFERENCES models (name),
    -- Counts the model's versions from 1.
    version    INTEGER NOT NULL CHECK (version BETWEEN 1 AND 4294967295),
    -- The job that trained it, which may have been removed since.
    job_id     INTEGER NOT NULL CHECK (job_id > 0),
    -- Its folder, objects with sizes and digests, and where it comes from: JSON of domain::registry::Content.
    content    TEXT    NOT NULL CHECK (json_type(content) = 'object'),
    -- Who registered it, a Unix user id, and when.
    created_by INTEGER NOT NULL CHECK (created_by BETWEEN 0 AND 4294967295),
    created_us INTEGER NOT NULL,
    -- The same of who removed it.
    removed_by INTEGER CHECK (removed_by BETWEEN 0 AND 4294967295),
    removed_us INTEGER CHECK ((removed_us IS NULL) = (removed_by IS NULL)),
    seal       INTEGER NOT NULL,
    -- The folder that holds it, of one that was not removed: what must stay.
    uri        TEXT    GENERATED ALWAYS AS (iif(removed_us IS NULL, content ->> '$.uri', NULL)) VIRTUAL,
    UNIQUE (model, version)
) STRICT;

CREATE INDEX model_versions_job ON model_versions (job_id);
CREATE INDEX model_versions_uri ON model_versions (uri) WHERE uri IS NOT NULL;
