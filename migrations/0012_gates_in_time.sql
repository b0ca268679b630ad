-- Who waits behind a gate, without those whose start time has not come: they take no place that others could have, and may be many. Conventions as in 0001_jobs.sql; the parentheses as
-- in 0009_gates.sql.

DROP INDEX jobs_gated;
CREATE INDEX jobs_behind ON jobs (user_id, gate_key, priority DESC, id) WHERE gated = 1 AND due = 1;
