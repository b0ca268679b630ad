-- What users' attempts had, by the day on which they ended: fair shares go by it. Conventions as in 0001_jobs.sql; no seal, since a wrong number could move jobs in the line and no more.
CREATE TABLE usage (
    -- Whole days since 1970, UTC.
    day     INTEGER NOT NULL,
    user_id INTEGER NOT NULL CHECK (user_id BETWEEN 0 AND 4294967295),
    -- Milliseconds of one core, and of one GPU.
    core_ms INTEGER NOT NULL CHECK (core_ms >= 0),
    gpu_ms  INTEGER NOT NULL CHECK (gpu_ms >= 0),
    PRIMARY KEY (day, user_id)
) STRICT, WITHOUT ROWID;
