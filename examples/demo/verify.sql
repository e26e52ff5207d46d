-- What must be true at the end, a sentence and whether it holds.
-- Variables: runs (ids, a text array), killed, killed_run, paused, paused_run.
SELECT format('all %s runs are finished, each of them once', cardinality(:'runs'::bigint[])),
    count(*) = cardinality(:'runs'::bigint[])
        AND array_agg(id ORDER BY id) = (SELECT array_agg(u ORDER BY u) FROM unnest(:'runs'::bigint[]) AS u)
        AND bool_and(state IN ('completed', 'dead', 'cancelled') AND finished_at IS NOT NULL)
FROM pgjobs.jobs
WHERE queue = 'ci'
UNION ALL
SELECT 'each stage of each completed run was completed once',
    count(*) FILTER (WHERE a.completed = 1) = 2 * (SELECT count(*) FROM pgjobs.jobs
                                                   WHERE queue = 'ci' AND state = 'completed')
        AND bool_and(a.completed = 1 OR j.state <> 'completed')
FROM (
    SELECT job_id, stage, count(*) FILTER (WHERE outcome = 'completed') AS completed
    FROM pgjobs.attempts
    WHERE queue = 'ci'
    GROUP BY job_id, stage
) AS a
JOIN pgjobs.jobs AS j ON j.id = a.job_id
UNION ALL
SELECT
    format('run %s: %s was killed in attempt 1, %s did it in attempt %s',
        j.id, :'killed', j.worker, j.attempt),
    j.attempt >= 2 AND j.worker <> :'killed' AND j.state = 'completed' AND EXISTS (
        SELECT FROM pgjobs.attempts AS a
        WHERE (a.job_id, a.stage, a.worker, a.outcome) = (j.id, 'run', :'killed', 'expired'))
FROM pgjobs.jobs AS j
WHERE j.id = :killed_run
UNION ALL
SELECT
    format('run %s: %s was paused in attempt 1, %s did it in attempt %s',
        j.id, :'paused', j.worker, j.attempt),
    j.attempt >= 2 AND j.state = 'completed' AND EXISTS (
        SELECT FROM pgjobs.attempts AS a
        WHERE (a.job_id, a.stage, a.worker, a.outcome) = (j.id, 'run', :'paused', 'expired'))
FROM pgjobs.jobs AS j
WHERE j.id = :paused_run;
