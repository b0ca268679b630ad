-- Deadlines, and edits of time limits. Conventions as in 0001_jobs.sql; checks are widened as in 0003_control.sql.

-- The moment of the wall clock by which the job must have ended.
ALTER TABLE jobs ADD COLUMN deadline_us INTEGER;

-- What an edit made of the time limit that stands in the spec: seconds that each attempt may run, 0 for as many as it likes. None: as in the spec.
ALTER TABLE jobs ADD COLUMN time_limit_seconds INTEGER CHECK (time_limit_seconds >= 0);

-- The unfinished jobs that have a deadline and do not run, whatever they wait for: the nearest one, and those whose deadline has passed.
CREATE INDEX jobs_deadline ON jobs (deadline_us) WHERE deadline_us IS NOT NULL AND finished_us IS NULL AND token IS NULL;

PRAGMA writable_schema = ON;

-- A job whose deadline passed before it was started has failed without an attempt.
UPDATE sqlite_schema SET sql = replace(sql,
    'CHECK (state NOT IN (''succeeded'', ''failed'') OR (attempt > 0 AND exit IS NOT NULL))',
    'CHECK (state NOT IN (''succeeded'', ''failed'') OR (exit IS NOT NULL AND (attempt > 0 OR (state = ''failed'' AND exit ->> ''class'' = ''timeout''))))')
WHERE type = 'table' AND name = 'jobs';

PRAGMA writable_schema = RESET;
