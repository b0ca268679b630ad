-- A kind of job that runs a program of the user's own. Conventions as in 0001_jobs.sql; the check is widened as in 0003_control.sql.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (kind IN (''train'', ''infer''))', 'CHECK (kind IN (''train'', ''infer'', ''command''))')
WHERE type = 'table' AND name = 'jobs';

PRAGMA writable_schema = RESET;
