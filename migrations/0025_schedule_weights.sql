-- What schedules need. Conventions as in 0001_jobs.sql.

-- The URI of the weights that the schedule's jobs begin with, as in 0023_kept.sql.
ALTER TABLE schedules ADD COLUMN weights TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.init.from', spec ->> '$.infer.model.from')) VIRTUAL;
CREATE INDEX schedules_weights ON schedules (weights) WHERE weights IS NOT NULL;
