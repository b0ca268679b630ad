-- Named queues, and how long jobs may run, for those that fill gaps. Conventions as in 0001_jobs.sql.

-- A queue with limits or a state of its own. A job may stand in one that has no row: that has no limits and is open.
CREATE TABLE queues (
    -- Another one after each change.
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    name         TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    -- What its running jobs may have at once, all together: jobs, cores, GPUs; and how many jobs of one user may run. None: no limit.
    max_running  INTEGER CHECK (max_running BETWEEN 0 AND 4294967295),
    max_cpus     INTEGER CHECK (max_cpus BETWEEN 0 AND 4294967295),
    max_gpus     INTEGER CHECK (max_gpus BETWEEN 0 AND 4294967295),
    max_per_user INTEGER CHECK (max_per_user BETWEEN 0 AND 4294967295),
    -- Whether one that has no room yet may be passed by others that do not delay it.
    ordering     TEXT    NOT NULL CHECK (ordering IN ('best-effort', 'strict')),
    -- paused: nothing of it starts; draining: nothing is taken into it.
    flow         TEXT    NOT NULL CHECK (flow IN ('open', 'paused', 'draining')),
    -- Who changed it last, a Unix user id, and when.
    changed_by   INTEGER NOT NULL CHECK (changed_by BETWEEN 0 AND 4294967295),
    changed_us   INTEGER NOT NULL,
    seal         INTEGER NOT NULL
) STRICT;

-- Jobs per queue and state, changed in the transaction that changes the jobs: counting a million rows takes half a second. Takes the place of `counters`.
CREATE TABLE queue_counters (
    queue TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    state TEXT    NOT NULL CHECK (length(state) > 0),
    jobs  INTEGER NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (queue, state)
) STRICT, WITHOUT ROWID;

INSERT INTO queue_counters (queue, state, jobs) SELECT queue, state, count(*) FROM jobs GROUP BY queue, state;
DROP TABLE counters;

-- How many seconds an attempt may run as its spec has it. No event says it: it is in job_specs.
ALTER TABLE jobs ADD COLUMN planned_limit_seconds INTEGER CHECK (planned_limit_seconds BETWEEN 1 AND 4294967295);
UPDATE jobs SET planned_limit_seconds = (SELECT spec ->> '$.time.limit_seconds' FROM job_specs WHERE job_id = jobs.id);

-- The same after edits (time_limit_seconds in 0008_deadlines.sql, 0 for none).
ALTER TABLE jobs ADD COLUMN limit_seconds INTEGER AS (
    CASE WHEN time_limit_seconds IS NULL THEN planned_limit_seconds ELSE nullif(time_limit_seconds, 0) END) VIRTUAL;

-- About how long it may run: 1, 10, 60, 240, 1440 minutes, more, and without end. Part of a job's class, so that a short one is seen behind long ones.
ALTER TABLE jobs ADD COLUMN brevity INTEGER NOT NULL AS (
    CASE WHEN limit_seconds <= 60 THEN 0 WHEN limit_seconds <= 600 THEN 1 WHEN limit_seconds <= 3600 THEN 2 WHEN limit_seconds <= 14400 THEN 3
         WHEN limit_seconds <= 86400 THEN 4 WHEN limit_seconds > 86400 THEN 5 ELSE 6 END) VIRTUAL;

-- The jobs that may start now, by class, as in 0011_order.sql. The parentheses are as in 0009_gates.sql.
DROP INDEX jobs_ready;
CREATE INDEX jobs_ready ON jobs (queue, user_id, cpus, gpus, brevity, rank_us, id, not_before_us, priority)
    WHERE state = 'queued' AND (due = 1 AND gated = 0);
