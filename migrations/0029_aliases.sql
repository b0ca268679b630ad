-- Aliases of versions of models, and every move of one. Conventions as in 0001_jobs.sql.

-- A name that means one version of its model at a time, such as champion. What it means cannot be removed.
CREATE TABLE model_aliases (
    id      INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    model   TEXT    NOT NULL,
    alias   TEXT    NOT NULL CHECK (length(alias) BETWEEN 1 AND 100),
    version INTEGER NOT NULL,
    seal    INTEGER NOT NULL,
    UNIQUE (model, alias),
    FOREIGN KEY (model, version) REFERENCES model_versions (model, version)
) STRICT;

-- What became of an alias, once and for all: moves of one decision stand behind each other and have the same moment.
CREATE TABLE alias_moves (
    id       INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    model    TEXT    NOT NULL REFERENCES models (name),
    alias    TEXT    NOT NULL CHECK (length(alias) BETWEEN 1 AND 100),
    -- The version that it meant before. None: there was no such alias.
    before   INTEGER CHECK (before BETWEEN 1 AND 4294967295),
    -- The version that it means since. None: it was taken away.
    version  INTEGER CHECK (version BETWEEN 1 AND 4294967295),
    -- Why, as whoever moved it says.
    reason   TEXT    CHECK (length(reason) > 0),
    -- The job that did it, which may have been removed since. None: a person.
    job_id   INTEGER CHECK (job_id > 0),
    -- Who did it, a Unix user id, and when.
    moved_by INTEGER NOT NULL CHECK (moved_by BETWEEN 0 AND 4294967295),
    moved_us INTEGER NOT NULL,
    seal     INTEGER NOT NULL,
    CHECK (before IS NOT version)
) STRICT;

CREATE INDEX alias_moves_model ON alias_moves (model);
