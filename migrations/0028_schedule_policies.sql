-- What schedules do besides their line. Conventions as in 0001_jobs.sql.

-- JSON of the Policy: what becomes of ticks that were missed, between which moments there are any, by how much they are spread. None: the defaults, as for schedules from before
-- there were policies. With a spread, next_tick_us and settled_us of a schedule are about when ticks are due, and ticks.tick_us stays the moment that the line names.
ALTER TABLE schedules ADD COLUMN policy TEXT CHECK (length(policy) > 0);
