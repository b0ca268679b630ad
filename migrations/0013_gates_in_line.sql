-- Who waits behind a gate, in the order of the queue (rank_us in 0011_order.sql), so that nobody waits there without end either. Conventions as in 0001_jobs.sql; the parentheses as in
-- 0009_gates.sql.

DROP INDEX jobs_behind;
CREATE INDEX jobs_behind ON jobs (user_id, gate_key, rank_us, id) WHERE gated = 1 AND due = 1;
