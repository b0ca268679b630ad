-- Retries by exit class, a budget for faults of the infrastructure, quarantine. Conventions as in 0001_jobs.sql. A quarantined job is `held`, by user id 4294967295, which to the kernel
-- means nobody and here the daemon.

-- The exit classes after which the job is tried again: a JSON array of their names. None: all that can be.
ALTER TABLE jobs ADD COLUMN retry_on TEXT CHECK (retry_on IS NULL OR json_type(retry_on) = 'array');

-- Retries after faults of the infrastructure. The default is that of the specs that were written before it could be said.
ALTER TABLE jobs ADD COLUMN retry_infrastructure_limit INTEGER NOT NULL DEFAULT 5 CHECK (retry_infrastructure_limit >= 0);

-- Such retries used up since the submit, the last `retry` or the release from a quarantine.
ALTER TABLE jobs ADD COLUMN infrastructure_retries_used INTEGER NOT NULL DEFAULT 0 CHECK (infrastructure_retries_used BETWEEN 0 AND retry_infrastructure_limit);

-- Deaths in a row that may harm the machine, without a checkpoint between them.
ALTER TABLE jobs ADD COLUMN fruitless INTEGER NOT NULL DEFAULT 0 CHECK (fruitless >= 0);
