-- Pausing and preemption: a running job that is asked to save its work and to be held, or to wait for its turn again. Conventions as in 0001_jobs.sql; checks are widened as in
-- 0003_control.sql.

-- Whether the scheduler may take the job from its device for one that is more urgent.
ALTER TABLE jobs ADD COLUMN preemptible INTEGER NOT NULL DEFAULT 0 CHECK (preemptible IN (0, 1));

-- The job for which a running one was asked to make way.
ALTER TABLE jobs ADD COLUMN yields_to INTEGER CHECK ((yields_to IS NOT NULL) = (intent IS 'yield'));

PRAGMA writable_schema = ON;

-- Intents `pause` and `yield`; a job that is being paused says who holds it afterwards.
UPDATE sqlite_schema SET sql = replace(replace(sql,
    'intent IN (''cancel'', ''stop'')', 'intent IN (''cancel'', ''stop'', ''pause'', ''yield'')'),
    '((hold IS NOT NULL) = (state = ''held''))', '((hold IS NOT NULL) = (state = ''held'' OR intent IS ''pause''))')
WHERE type = 'table' AND name = 'jobs';

PRAGMA writable_schema = RESET;
