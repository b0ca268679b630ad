-- Where the data of datasets lies: files that were pushed are in the storage itself, and must stay. Conventions as in 0001_jobs.sql.

-- What the job's data was named by when the dataset's version was made: a file, a folder or a pattern.
ALTER TABLE job_specs ADD COLUMN dataset_uri TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.data.pinned.uri', spec ->> '$.infer.data.pinned.uri')) VIRTUAL;
CREATE INDEX job_specs_dataset_uri ON job_specs (dataset_uri) WHERE dataset_uri IS NOT NULL;

-- The same of the schedule's jobs.
ALTER TABLE schedules ADD COLUMN dataset_uri TEXT GENERATED ALWAYS AS (coalesce(spec ->> '$.train.data.pinned.uri', spec ->> '$.infer.data.pinned.uri')) VIRTUAL;
CREATE INDEX schedules_dataset_uri ON schedules (dataset_uri) WHERE dataset_uri IS NOT NULL;

-- The same of a version that was not removed.
ALTER TABLE dataset_versions ADD COLUMN uri TEXT GENERATED ALWAYS AS (iif(removed_us IS NULL, content ->> '$.uri', NULL)) VIRTUAL;
CREATE INDEX dataset_versions_uri ON dataset_versions (uri) WHERE uri IS NOT NULL;
