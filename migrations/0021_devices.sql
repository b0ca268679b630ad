-- Memory and GPUs as what jobs need and have, and GPUs that not everybody may have. Conventions as in 0001_jobs.sql.

-- What the job needs of the machine's memory, and of that of each of its GPUs: MiB. None of the memory is counted for it, or each of its GPUs is its alone, where it is 0.
ALTER TABLE jobs ADD COLUMN memory_mib INTEGER NOT NULL DEFAULT 0 CHECK (memory_mib BETWEEN 0 AND 1073741824);
ALTER TABLE jobs ADD COLUMN vram_mib INTEGER NOT NULL DEFAULT 0 CHECK (vram_mib BETWEEN 0 AND 1073741824);

-- The GPUs of its last attempt by UUID: a JSON array. None: it had none.
ALTER TABLE jobs ADD COLUMN gpu_uuids TEXT CHECK (json_valid(gpu_uuids));

-- The jobs that may start now, by class, as in 0016_queues.sql.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (queue, user_id, cpus, gpus, memory_mib, vram_mib, brevity, rank_us, id, not_before_us, priority)
    WHERE state = 'queued' AND (due = 1 AND gated = 0);

-- A GPU that a person has taken from some jobs or all. One without a row is everybody's.
CREATE TABLE devices (
    -- Another one after each change.
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    uuid       TEXT    NOT NULL UNIQUE CHECK (length(uuid) BETWEEN 1 AND 100),
    -- Who may have it: JSON.
    standing   TEXT    NOT NULL CHECK (json_valid(standing)),
    -- What for, in that person's words.
    reason     TEXT    CHECK (length(reason) BETWEEN 1 AND 1000),
    -- Who changed it last, a Unix user id, and when.
    changed_by INTEGER NOT NULL CHECK (changed_by BETWEEN 0 AND 4294967295),
    changed_us INTEGER NOT NULL,
    seal       INTEGER NOT NULL
) STRICT;
