-- Dependencies: a job that waits for others to end. Conventions as in 0001_jobs.sql; checks are widened as in 0003_control.sql.
--
-- Whether a dependency is met is kept nowhere, since it follows from where the other job stands. The writer settles the jobs that wait in the transaction in which one that they wait for
-- ends (store/settle.rs).

-- That the job waits for others, or would again when it is released or tried again, and what becomes of it when it waits in vain: JSON of domain::dependency::Waits. None once all was met.
ALTER TABLE jobs ADD COLUMN waits TEXT CHECK ((waits IS NULL OR json_type(waits) = 'object') AND (state <> 'blocked' OR waits IS NOT NULL));

-- What jobs wait for, as their events say it.
CREATE TABLE dependencies (
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    -- The job or array that it waits for: an older one, so that there are no circles. It may have been removed since.
    on_job INTEGER NOT NULL CHECK (on_job > 0 AND on_job < job_id),
    -- How that must have ended: domain::dependency::Need.
    need   TEXT    NOT NULL CHECK (need IN ('ok', 'any', 'notok')),
    -- 1: a person had the job started anew, and it does not wait for this again.
    waived INTEGER NOT NULL DEFAULT 0 CHECK (waived IN (0, 1)),
    PRIMARY KEY (job_id, on_job)
) STRICT, WITHOUT ROWID;

-- Who waits for a job.
CREATE INDEX dependencies_on ON dependencies (on_job, job_id);

-- Jobs and arrays that have ended and for which more jobs wait than one transaction settles. The next transactions settle the others, in the order of their ids.
CREATE TABLE unsettled (
    on_job    INTEGER NOT NULL PRIMARY KEY CHECK (on_job > 0),
    -- Those up to this one are settled.
    after_job INTEGER NOT NULL CHECK (after_job >= 0)
) STRICT;

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(replace(sql,
    'CHECK (state IN (''queued'', ''held'',', 'CHECK (state IN (''queued'', ''blocked'', ''held'','),
    'not_before_us IS NULL OR state = ''queued''', 'not_before_us IS NULL OR state IN (''queued'', ''blocked'')')
WHERE type = 'table' AND name = 'jobs';

UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (state IN (''queued'', ''held'',', 'CHECK (state IN (''queued'', ''blocked'', ''held'',')
WHERE type = 'table' AND name = 'counters';

PRAGMA writable_schema = RESET;

INSERT INTO counters (state, jobs) VALUES ('blocked', 0);
