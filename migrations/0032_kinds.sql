-- Which kinds of jobs there are is for the job's spec to say, as it is for arrays. Conventions as in 0001_jobs.sql; the check is widened as in 0003_control.sql.

PRAGMA writable_schema = ON;

UPDATE sqlite_schema SET sql = replace(sql, 'CHECK (kind IN (''train'', ''infer'', ''command''))', 'CHECK (length(kind) > 0)')
WHERE type = 'table' AND name = 'jobs';

PRAGMA writable_schema = RESET;
