-- Concurrency keys of which the newest job wins. Conventions as in 0001_jobs.sql; the parentheses as in 0009_gates.sql.

-- 1: the job makes way for newer ones at its gate, and has older ones that do so too make way for it.
ALTER TABLE jobs ADD COLUMN gate_newest INTEGER NOT NULL DEFAULT 0 CHECK (gate_newest = 0 OR (gate_newest = 1 AND gate_key IS NOT NULL));
-- The job with the same key for which it was cancelled, or is being cancelled: a newer one, unless an older one came to its turn after it. It may have been removed since.
ALTER TABLE jobs ADD COLUMN replaced_by INTEGER
    CHECK (replaced_by IS NULL OR (replaced_by > 0 AND replaced_by <> id AND (state = 'cancelled' OR (state = 'running' AND intent = 'cancel'))));

-- Those that make way, among those that run or are in the line.
CREATE INDEX jobs_newest ON jobs (user_id, gate_key, waiting_us, id) WHERE gate_newest = 1 AND state IN ('queued', 'running');
