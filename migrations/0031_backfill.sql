-- Ticks that people make up for. Conventions as in 0002_schedules.sql.

-- The Unix user id of who had the tick made up for when it had passed; none where the clock submitted its job.
ALTER TABLE ticks ADD COLUMN asked_by INTEGER CHECK (asked_by IS NULL OR asked_by BETWEEN 0 AND 4294967295);

-- The last jobs of a schedule, whatever ticks they are of, and which of them people asked for.
DROP INDEX ticks_jobs;
CREATE INDEX ticks_jobs ON ticks (schedule_id, job_id, asked_by);
