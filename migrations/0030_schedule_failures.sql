-- What schedules do about their jobs. Conventions as in 0001_jobs.sql.

-- Why the daemon paused it, in a line for people: jobs of it failed. None where a person did, or nobody.
ALTER TABLE schedules ADD COLUMN paused TEXT CHECK (paused IS NULL OR (length(paused) > 0 AND enabled = 0));
-- When it was resumed last: failures of jobs that were submitted before count no more.
ALTER TABLE schedules ADD COLUMN resumed_us INTEGER;

-- The schedules that failures pause.
CREATE INDEX schedules_watched ON schedules (id) WHERE enabled = 1 AND policy ->> '$.pause_on_failure' IS NOT NULL;

-- The last jobs of a schedule, whatever ticks they are of.
CREATE INDEX ticks_jobs ON ticks (schedule_id, job_id);
