-- When an array ended, for its retention. Conventions as in 0001_jobs.sql.

-- When the last of its members ended; none while one has not. Not part of the seal: the check compares it with the members.
ALTER TABLE arrays ADD COLUMN ended_us INTEGER;

UPDATE arrays SET ended_us = (SELECT max(finished_us) FROM jobs WHERE jobs.id > arrays.id AND jobs.id <= arrays.id + arrays.size)
WHERE NOT EXISTS (SELECT 1 FROM array_counts WHERE array_id = arrays.id AND jobs > 0 AND tally NOT IN ('succeeded', 'failed', 'cancelled', 'stopped'));

-- Those that have ended, the oldest first.
CREATE INDEX arrays_ended ON arrays (ended_us) WHERE ended_us IS NOT NULL;
