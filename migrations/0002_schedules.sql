-- Schedules: which job is submitted when, and which ticks were. Conventions as in 0001_jobs.sql: times are microseconds since 1970 UTC (*_us), JSON columns hold what serde
-- writes for the named type, and rows that no event repeats carry a seal. What a tick does to jobs is in `events` like every submit: the job bears the schedule's name and the
-- tick as labels. Nothing else about a schedule is an event, since an event is about a job.

-- When which job is submitted.
CREATE TABLE schedules (
    -- Never used twice: idempotency keys of ticks are made from it.
    id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT CHECK (id > 0),
    name         TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 100),
    -- A crontab line as written: five fields, or @daily and the like.
    cron         TEXT    NOT NULL CHECK (length(cron) BETWEEN 1 AND 1000),
    -- The IANA name of the time zone that the line is read in.
    zone         TEXT    NOT NULL CHECK (length(zone) BETWEEN 1 AND 100),
    -- JSON of the JobSpec that each tick submits, but for the labels that name the tick.
    spec         TEXT    NOT NULL CHECK (length(spec) > 0),
    -- In whose name: the Unix user id of who added it, as the kernel gave it for the socket.
    user_id      INTEGER NOT NULL CHECK (user_id BETWEEN 0 AND 4294967295),
    -- 0: submits nothing.
    enabled      INTEGER NOT NULL CHECK (enabled IN (0, 1)),
    -- The nearest tick that is to come. None when the line names no time that does.
    next_tick_us INTEGER CHECK (next_tick_us IS NULL OR next_tick_us > settled_us),
    -- Every tick up to this moment, this one included, was submitted or left out by the policy for missed ones. Goes back only with the clock.
    settled_us   INTEGER NOT NULL,
    created_us   INTEGER NOT NULL,
    seal         INTEGER NOT NULL
) STRICT;

-- The nearest tick of all, and the schedules that are due.
CREATE INDEX schedules_next ON schedules (next_tick_us) WHERE enabled = 1 AND next_tick_us IS NOT NULL;

-- The ticks that submitted a job: one row each, written in the transaction that keeps the job, so that none submits twice. A tick has two names, and neither may come again:
-- its moment, and the local time it stands for, which stays the same when a government moves the zone's offset.
CREATE TABLE ticks (
    schedule_id  INTEGER NOT NULL REFERENCES schedules (id),
    -- The moment of the tick.
    tick_us      INTEGER NOT NULL,
    -- The local time that the line names, such as 2026-03-29T02:30:00; where the clock leaves it out, the tick's moment is another.
    nominal      TEXT    NOT NULL CHECK (length(nominal) = 19),
    -- 2 for the second of two moments at which the clock shows that time, else 1.
    pass         INTEGER NOT NULL CHECK (pass IN (1, 2)),
    -- What it submitted.
    job_id       INTEGER NOT NULL UNIQUE REFERENCES jobs (id),
    -- When it did: later than tick_us for one that was missed and made up for.
    submitted_us INTEGER NOT NULL,
    seal         INTEGER NOT NULL,
    PRIMARY KEY (schedule_id, tick_us),
    UNIQUE (schedule_id, nominal, pass)
) STRICT, WITHOUT ROWID;
