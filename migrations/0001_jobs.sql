-- The first schema. Applied once, inside one transaction, by store/open.rs, which sets user_version to the migration's number in the same transaction.
--
-- Times are microseconds since 1970 UTC (*_us). Ids and counts are never negative. JSON columns hold what serde writes for the named type.
-- What a job's events say is in `jobs` (state, exit, checkpoint …): replaying `events` gives these rows, and `check` compares them. What changes many times a second
-- (progress, leases, metrics) is in `attempts` and `metrics` and is no event. Rows that no event repeats carry a seal: eight bytes of BLAKE3 over the row's other values
-- (store/rows.rs), so that a flipped bit is found there too.

-- One row: the identity of this database and the ends of its counters.
CREATE TABLE instance (
    id            INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Random, made with the database: part of every object key.
    name          TEXT    NOT NULL CHECK (length(name) = 16 AND name NOT GLOB '*[^0-9a-f]*'),
    -- Grows with every restore. The high bits of every fencing token, so that a restored database never draws a token again.
    epoch         INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4194303),
    -- Fencing tokens drawn in this epoch: the low 40 bits of the last one.
    tokens_drawn  INTEGER NOT NULL CHECK (tokens_drawn BETWEEN 0 AND 1099511627775),
    -- The last job id given. Never goes back, so that an id is never used twice.
    last_job_id   INTEGER NOT NULL CHECK (last_job_id >= 0),
    -- The newest event and its hash. A log that ends elsewhere was cut or grown behind our back.
    last_event_id INTEGER NOT NULL CHECK (last_event_id >= 0),
    last_hash     BLOB    NOT NULL CHECK (length(last_hash) = 32),
    -- Transactions that changed something. A file beside the database says how many there must be at least (store/head.rs).
    commits       INTEGER NOT NULL CHECK (commits >= 0),
    created_us    INTEGER NOT NULL
) STRICT;

-- A job as its events made it, without its spec: the hot table.
CREATE TABLE jobs (
    id             INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    name           TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    kind           TEXT    NOT NULL CHECK (kind IN ('train', 'infer')),
    -- The submitter's Unix user id, as the kernel gave it for the socket.
    user_id        INTEGER NOT NULL CHECK (user_id BETWEEN 0 AND 4294967295),
    queue          TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    -- 0 to 100, higher first.
    priority       INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 100),
    -- JSON object of strings.
    labels         TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
    -- What it occupies while it runs: cores and GPUs.
    cpus           INTEGER NOT NULL CHECK (cpus >= 0),
    gpus           INTEGER NOT NULL CHECK (gpus >= 0),
    -- The retry policy: retries after the first attempt, seconds before the second retry, seconds a retry waits at most.
    retry_limit           INTEGER NOT NULL CHECK (retry_limit >= 0),
    retry_backoff_seconds INTEGER NOT NULL CHECK (retry_backoff_seconds >= 0),
    retry_max_seconds     INTEGER NOT NULL CHECK (retry_max_seconds >= 0),
    -- BLAKE3 of job_specs.spec, hexadecimal.
    spec_digest    TEXT    NOT NULL CHECK (length(spec_digest) = 64),
    submitted_us   INTEGER NOT NULL,
    state          TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    -- 1: may start as far as time is concerned. 0: waits for not_before_us, and is kept out of the index of ready jobs. Set to 1 by the store when the
    -- time has come, without an event.
    due            INTEGER NOT NULL CHECK (due = 1 OR (due = 0 AND state = 'queued' AND not_before_us IS NOT NULL)),
    -- A queued job must not start before this.
    not_before_us  INTEGER CHECK (not_before_us IS NULL OR state = 'queued'),
    -- How often it was started.
    attempt        INTEGER NOT NULL CHECK (attempt BETWEEN 0 AND 4294967295),
    -- Fencing token of the attempt under way.
    token          INTEGER CHECK ((token IS NOT NULL) = (state = 'running')),
    -- What a running job was asked for and has not yet obeyed.
    intent         TEXT    CHECK (intent IS NULL OR (intent = 'cancel' AND state = 'running')),
    -- Retries used up since the submit or the last `retry`.
    retries_used   INTEGER NOT NULL CHECK (retries_used BETWEEN 0 AND retry_limit),
    -- When the last attempt was claimed.
    started_us     INTEGER CHECK ((started_us IS NOT NULL) = (attempt > 0)),
    -- When it became terminal.
    finished_us    INTEGER CHECK ((finished_us IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    -- How the last attempt ended: JSON of domain::Exit. None while one is under way.
    exit           TEXT    CHECK (exit IS NULL OR json_type(exit) = 'object'),
    -- The newest durable checkpoint: JSON of CheckpointRef.
    checkpoint     TEXT    CHECK (checkpoint IS NULL OR (attempt > 0 AND json_type(checkpoint) = 'object')),
    -- What it published: JSON of ModelRef and OutputRef.
    model          TEXT    CHECK (model IS NULL OR (state = 'succeeded' AND json_type(model) = 'object')),
    output         TEXT    CHECK (output IS NULL OR (state = 'succeeded' AND json_type(output) = 'object')),
    -- An ended job with an attempt behind it says how that ended; one under way says nothing.
    CHECK (state NOT IN ('succeeded', 'failed') OR (attempt > 0 AND exit IS NOT NULL)),
    CHECK (state <> 'running' OR (attempt > 0 AND exit IS NULL)),
    CHECK (state <> 'succeeded' OR exit ->> 'class' = 'ok')
) STRICT;

-- The jobs that may start now, in the order in which they should, with all the planner needs: it never reads the table.
CREATE INDEX jobs_ready ON jobs (priority DESC, id, not_before_us, cpus, gpus) WHERE state = 'queued' AND due = 1;
-- Queued jobs with a start time, so that the nearest is found without looking at the others.
CREATE INDEX jobs_later ON jobs (due, not_before_us) WHERE state = 'queued' AND not_before_us IS NOT NULL;
-- Lists by state, newest first; the attempts under way.
CREATE INDEX jobs_state ON jobs (state, id);
-- Finished jobs, last finished first.
CREATE INDEX jobs_finished ON jobs (finished_us) WHERE finished_us IS NOT NULL;
-- `mlctl show NAME`.
CREATE INDEX jobs_name ON jobs (name, id);

-- What to do, beside the hot table because it is large and read once an attempt.
CREATE TABLE job_specs (
    job_id INTEGER NOT NULL PRIMARY KEY REFERENCES jobs (id),
    -- JSON of JobSpec, byte for byte as hashed in jobs.spec_digest.
    spec   TEXT    NOT NULL CHECK (length(spec) > 0)
) STRICT;

-- Which job an idempotency key stands for.
CREATE TABLE idempotency (
    user_id INTEGER NOT NULL CHECK (user_id BETWEEN 0 AND 4294967295),
    -- Chosen by the client, unique per user.
    key     TEXT    NOT NULL CHECK (length(key) > 0),
    job_id  INTEGER NOT NULL UNIQUE REFERENCES jobs (id),
    -- BLAKE3 of what was asked for, hexadecimal: the spec as it came, before names in it were resolved. Another request under the key is refused.
    asked   TEXT    NOT NULL CHECK (length(asked) = 64),
    seal    INTEGER NOT NULL,
    PRIMARY KEY (user_id, key)
) STRICT, WITHOUT ROWID;

-- Attempts. A write about a running one names (token, job_id, attempt), finds it open, and changes exactly one row.
CREATE TABLE attempts (
    -- The fencing token: grows with every claim.
    token          INTEGER NOT NULL PRIMARY KEY CHECK (token > 0),
    job_id         INTEGER NOT NULL REFERENCES jobs (id),
    -- Counts the job's starts from 1.
    attempt        INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 4294967295),
    started_us     INTEGER NOT NULL,
    ended_us       INTEGER,
    -- How it ended: JSON of domain::Exit.
    exit           TEXT    CHECK ((exit IS NOT NULL) = (ended_us IS NOT NULL)),
    -- Its process, once launched: JSON of domain::event::ProcessIdentity.
    process        TEXT    CHECK (process IS NULL OR json_type(process) = 'object'),
    -- BLAKE3 of the secret with which its worker dials. The secret itself is nowhere.
    secret_hash    BLOB    NOT NULL CHECK (length(secret_hash) = 32),
    -- `cpu`, or the accelerator, as the worker said.
    device         TEXT,
    -- How far it has come: JSON of protocol Progress.
    progress       TEXT    NOT NULL DEFAULT '{}' CHECK (json_type(progress) = 'object'),
    -- The last value of each metric, earlier attempts' included: JSON of protocol Metrics.
    metrics        TEXT    NOT NULL DEFAULT '{}' CHECK (json_type(metrics) = 'object'),
    heartbeat_us   INTEGER,
    -- The lease's end, exclusive.
    lease_until_us INTEGER NOT NULL,
    -- Peak resident memory of the worker.
    peak_rss_bytes INTEGER CHECK (peak_rss_bytes >= 0),
    -- The number of the last report taken; a report with this number or a lower one changes nothing.
    last_seq       INTEGER NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    -- The result the worker reported: JSON of WorkerResult.
    result         TEXT    CHECK (result IS NULL OR json_type(result) = 'object'),
    seal           INTEGER NOT NULL,
    UNIQUE (job_id, attempt)
) STRICT;

-- A job has one open attempt at most.
CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE ended_us IS NULL;

-- What happened, for ever, in order. Hash-chained: a changed, lost or added row is found.
CREATE TABLE events (
    -- Counts from 1 without gaps.
    id     INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    at_us  INTEGER NOT NULL,
    job_id INTEGER NOT NULL REFERENCES jobs (id),
    -- JSON of domain::Event, byte for byte as hashed.
    body   TEXT    NOT NULL CHECK (length(body) > 0),
    -- BLAKE3 over the previous event's hash and this row (store/chain.rs).
    hash   BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE INDEX events_job ON events (job_id, id);

-- Durable checkpoints whose objects exist.
CREATE TABLE checkpoints (
    -- Grows with every checkpoint kept: the order from old to new.
    id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id     INTEGER NOT NULL REFERENCES jobs (id),
    -- The attempt that made it.
    attempt    INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 4294967295),
    -- The folder that holds its manifest.
    uri        TEXT    NOT NULL CHECK (length(uri) > 0),
    -- JSON of CheckpointRef.
    checkpoint TEXT    NOT NULL CHECK (checkpoint ->> 'uri' = uri),
    seal       INTEGER NOT NULL,
    UNIQUE (job_id, uri)
) STRICT;

-- Learning curves. A later attempt's points replace earlier ones from the step at which it went on.
CREATE TABLE metrics (
    -- Grows with every point, and is never used twice: readers follow by it.
    id      INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    job_id  INTEGER NOT NULL REFERENCES jobs (id),
    -- The attempt that measured it.
    attempt INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 4294967295),
    -- Optimizer steps done then.
    step    INTEGER NOT NULL CHECK (step >= 0),
    -- JSON of MetricPoint.
    point   TEXT    NOT NULL CHECK (json_type(point) = 'object'),
    seal    INTEGER NOT NULL
) STRICT;

CREATE INDEX metrics_job ON metrics (job_id, id);
CREATE INDEX metrics_attempt ON metrics (job_id, attempt, step);

-- Jobs per state, changed in the transaction that changes the jobs: counting a million rows takes half a second.
CREATE TABLE counters (
    state TEXT    NOT NULL PRIMARY KEY CHECK (state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    jobs  INTEGER NOT NULL CHECK (jobs >= 0)
) STRICT, WITHOUT ROWID;

INSERT INTO counters (state, jobs) VALUES ('queued', 0), ('running', 0), ('succeeded', 0), ('failed', 0), ('cancelled', 0);
