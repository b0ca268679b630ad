-- Retrainings: jobs that the daemon runs itself, in stages that are jobs of their own. Conventions as in 0001_jobs.sql; checks are widened as in 0003_control.sql.

-- What a retraining that went well has come to: JSON of domain::retrain::Conclusion.
ALTER TABLE jobs ADD COLUMN conclusion TEXT CHECK (conclusion IS NULL OR (state = 'succeeded' AND json_type(conclusion) = 'object'));

-- Those that have not ended.
CREATE INDEX jobs_retrain ON jobs (id) WHERE kind = 'retrain' AND finished_us IS NULL;

PRAGMA writable_schema = ON;

-- One that is over has ended without an attempt of its own.
UPDATE sqlite_schema SET sql = replace(sql, '(exit IS NOT NULL AND (attempt > 0 OR (', '(exit IS NOT NULL AND (attempt > 0 OR kind = ''retrain'' OR (')
WHERE type = 'table' AND name = 'jobs';

PRAGMA writable_schema = RESET;
