-- What the retention of checkpoints goes by. Conventions as in 0001_jobs.sql.

-- When the checkpoint was put on record. Part of the row's seal where it is there: rows of before have seals without it.
ALTER TABLE checkpoints ADD COLUMN created_us INTEGER;

-- The URI of the weights that the job begins with: a model, or a checkpoint of another job, which then must stay. None: it begins with none of those.
ALTER TABLE job_specs ADD COLUMN weights TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.init.from', spec ->> '$.infer.model.from')) VIRTUAL;
CREATE INDEX job_specs_weights ON job_specs (weights) WHERE weights IS NOT NULL;
