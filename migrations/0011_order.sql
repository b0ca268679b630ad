-- The order of the queue. Conventions as in 0001_jobs.sql.

-- Since when it waits for its turn: from its submit or its start time, its release, or a person's retry on; a job that is tried again by itself keeps its place. No event says it, and
-- nothing but the order depends on it.
ALTER TABLE jobs ADD COLUMN waiting_us INTEGER NOT NULL DEFAULT 0;
UPDATE jobs SET waiting_us = coalesce(not_before_us, submitted_us) WHERE finished_us IS NULL;

-- Its place: an hour of waiting is worth a point of priority. The lowest is first, and of the same the one with the lower id.
ALTER TABLE jobs ADD COLUMN rank_us INTEGER NOT NULL AS (waiting_us - priority * 3600000000) VIRTUAL;

-- The jobs that may start now, by class: those of a class need the same, so that only the first of each can be the next.
-- The parentheses are as in 0009_gates.sql.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (queue, user_id, cpus, gpus, rank_us, id, not_before_us, priority)
    WHERE state = 'queued' AND (due = 1 AND gated = 0);
