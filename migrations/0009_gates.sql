-- Gates: of the jobs of a user that bear the same key, so many at most run or wait to be started; the others wait behind the gate, out of the index of ready jobs. Conventions as in
-- 0001_jobs.sql. The writer lets the next through in the transaction in which one ends (store/gates.rs), without an event: it follows from the others.

-- The gate's key, unique per user: `array:17` for an array that runs so many at once.
ALTER TABLE jobs ADD COLUMN gate_key TEXT CHECK (gate_key IS NULL OR length(gate_key) BETWEEN 1 AND 200);
-- How many the gate lets through at once.
ALTER TABLE jobs ADD COLUMN gate_limit INTEGER CHECK ((gate_limit IS NULL) = (gate_key IS NULL) AND (gate_limit IS NULL OR gate_limit > 0));
-- 1: waits behind its gate.
ALTER TABLE jobs ADD COLUMN gated INTEGER NOT NULL DEFAULT 0 CHECK (gated = 0 OR (gated = 1 AND gate_key IS NOT NULL AND state = 'queued'));

-- Those that wait behind a gate, in the order in which they are let through.
CREATE INDEX jobs_gated ON jobs (user_id, gate_key, priority DESC, id) WHERE gated = 1;
-- Those that were let through.
CREATE INDEX jobs_through ON jobs (user_id, gate_key, state) WHERE gate_key IS NOT NULL AND gated = 0;

-- As in 0001_jobs.sql, without those behind a gate. The parentheses matter: SQLite takes what a condition says of `due` and `gated` for known, and the index for all it needs to read,
-- only where of each AND at most the right side is another.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (priority DESC, id, not_before_us, cpus, gpus) WHERE state = 'queued' AND (due = 1 AND gated = 0);
