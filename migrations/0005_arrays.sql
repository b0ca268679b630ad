-- Arrays: many jobs made from one spec by parameters. Conventions as in 0001_jobs.sql. A member is a job like any other; its ids follow the array's without a gap, so that the member
-- of index 3 of array 17 is job 20.

-- Arrays, as they were submitted. What becomes of one is what becomes of its members.
CREATE TABLE arrays (
    -- From the same sequence as jobs' ids, and no job's.
    id           INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    -- Members are named NAME.INDEX.
    name         TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    kind         TEXT    NOT NULL CHECK (length(kind) > 0),
    -- The submitter's Unix user id, as the kernel gave it for the socket.
    user_id      INTEGER NOT NULL CHECK (user_id BETWEEN 0 AND 4294967295),
    queue        TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 100),
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 100),
    -- JSON object of strings: those that all members began with.
    labels       TEXT    NOT NULL CHECK (json_type(labels) = 'object'),
    -- Members it was submitted with.
    size         INTEGER NOT NULL CHECK (size > 0),
    -- JSON of domain::array::Design: where the members' parameters come from, what they are compared by.
    design       TEXT    NOT NULL CHECK (json_type(design) = 'object'),
    submitted_us INTEGER NOT NULL,
    seal         INTEGER NOT NULL
) STRICT;

-- `mlctl show NAME`.
CREATE INDEX arrays_name ON arrays (name, id);

-- Members of each array by where they stand (domain::array::tally), changed in the transaction that changes the jobs.
CREATE TABLE array_counts (
    array_id INTEGER NOT NULL REFERENCES arrays (id),
    tally    TEXT    NOT NULL CHECK (length(tally) > 0),
    jobs     INTEGER NOT NULL CHECK (jobs >= 0),
    PRIMARY KEY (array_id, tally)
) STRICT, WITHOUT ROWID;

-- The arrays that have members there.
CREATE INDEX array_counts_tally ON array_counts (tally, array_id) WHERE jobs > 0;

-- The array that the job is a member of.
ALTER TABLE jobs ADD COLUMN array_id INTEGER CHECK (array_id IS NULL OR array_id > 0);
-- Which member, from 1: its id less the array's.
ALTER TABLE jobs ADD COLUMN array_index INTEGER CHECK (array_index IS NULL OR array_index > 0);
-- What sets it apart from the other members: JSON of domain::array::Params.
ALTER TABLE jobs ADD COLUMN params TEXT
    CHECK ((params IS NULL) = (array_id IS NULL) AND (array_index IS NULL) = (array_id IS NULL) AND (params IS NULL OR json_type(params) = 'object'));

-- Lists by state, newest first, with members of arrays apart: a list shows an array in one row and comes by none of its members.
DROP INDEX jobs_state;
CREATE INDEX jobs_state ON jobs (state, (array_id IS NOT NULL), id);
-- Finished jobs that are no array's members, last finished first.
CREATE INDEX jobs_finished_alone ON jobs (finished_us) WHERE finished_us IS NOT NULL AND array_id IS NULL;
