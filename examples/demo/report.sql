-- Every run with its stages, attempts, times and outcome: two views, plain SQL.
\pset linestyle unicode
\pset border 1
\pset footer off
WITH stage AS (
    SELECT job_id, stage, string_agg(
        worker || ' ' || CASE outcome
            WHEN 'completed' THEN to_char(extract(epoch FROM finished_at - started_at), 'FM990.0') || ' s'
            ELSE coalesce(outcome, 'at it')
        END, ', then ' ORDER BY attempt) AS attempts
    FROM pgjobs.attempts
    WHERE queue = 'ci'
    GROUP BY job_id, stage
)
SELECT
    j.id AS run,
    left(j.payload->>'title', 30) AS commit,
    i.attempts AS "stage initialize",
    r.attempts AS "stage run",
    to_char(extract(epoch FROM j.finished_at - j.enqueued_at), '990.0') || ' s' AS total,
    coalesce(j.result->>'outcome', j.state) AS outcome
FROM pgjobs.jobs AS j
LEFT JOIN stage AS i ON (i.job_id, i.stage) = (j.id, 'initialize')
LEFT JOIN stage AS r ON (r.job_id, r.stage) = (j.id, 'run')
WHERE j.queue = 'ci'
ORDER BY j.id;
