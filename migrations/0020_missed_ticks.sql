-- Ticks of schedules whose job could not be submitted. Conventions as in 0002_schedules.sql.

-- The last of each schedule, a hundred at most. One that fires after all, as the clock was set back, leaves it.
CREATE TABLE missed_ticks (
    id          INTEGER NOT NULL PRIMARY KEY CHECK (id > 0),
    schedule_id INTEGER NOT NULL REFERENCES schedules (id),
    -- As in ticks.
    tick_us     INTEGER NOT NULL,
    nominal     TEXT    NOT NULL CHECK (length(nominal) = 19),
    pass        INTEGER NOT NULL CHECK (pass IN (1, 2)),
    -- Why, in a line for people.
    reason      TEXT    NOT NULL CHECK (length(reason) > 0),
    -- When that was found.
    missed_us   INTEGER NOT NULL,
    seal        INTEGER NOT NULL,
    UNIQUE (schedule_id, tick_us)
) STRICT;
