-- Removal of finished jobs, and pruning of the log. Conventions as in 0001_jobs.sql; the text of checks is changed as in 0003_control.sql.
--
-- The rows of a removed job are deleted. Of its events the bodies are erased, so that the chain still has every hash; its last event, `removed`, stays. What then stands at the beginning of
-- the log, erased events and `removed` ones alone, is cut off, and where the log begins from then on is on record.

-- The last event cut off, and its hash: what the first one that is left is chained to. 0 and none: the log begins with event 1.
ALTER TABLE instance ADD COLUMN pruned_event_id INTEGER NOT NULL DEFAULT 0 CHECK (pruned_event_id >= 0);
ALTER TABLE instance ADD COLUMN pruned_hash BLOB CHECK ((pruned_hash IS NULL) = (pruned_event_id = 0) AND (pruned_hash IS NULL OR length(pruned_hash) = 32));
-- The highest job among the events cut off, and the highest token among the attempts removed: witnesses of the last id and the last token.
ALTER TABLE instance ADD COLUMN pruned_job_id INTEGER NOT NULL DEFAULT 0 CHECK (pruned_job_id >= 0);
ALTER TABLE instance ADD COLUMN removed_token INTEGER NOT NULL DEFAULT 0 CHECK (removed_token >= 0);

PRAGMA writable_schema = ON;

-- An event may outlive its job, without its body.
UPDATE sqlite_schema SET sql = replace(replace(sql,
    'job_id INTEGER NOT NULL REFERENCES jobs (id)', 'job_id INTEGER NOT NULL CHECK (job_id > 0)'),
    'body   TEXT    NOT NULL CHECK (length(body) > 0)', 'body   TEXT    CHECK (body IS NULL OR length(body) > 0)')
WHERE type = 'table' AND name = 'events';

-- A tick outlives its job, so that it never fires again.
UPDATE sqlite_schema SET sql = replace(sql, 'job_id       INTEGER NOT NULL UNIQUE REFERENCES jobs (id)', 'job_id       INTEGER NOT NULL UNIQUE')
WHERE type = 'table' AND name = 'ticks';

PRAGMA writable_schema = RESET;
