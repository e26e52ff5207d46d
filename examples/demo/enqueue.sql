-- Each commit becomes a run. Input: lines "hash, tab, subject"; variables repo, command, count.
-- If there are fewer commits than count, they take turns.
BEGIN;
CREATE TEMPORARY TABLE line (number bigint GENERATED ALWAYS AS IDENTITY, line text) ON COMMIT DROP;
\copy line (line) FROM pstdin (FORMAT csv, DELIMITER E'\x02', QUOTE E'\x01')
SELECT pgjobs.enqueue_many('ci', array_agg(jsonb_build_object(
        'repo', :'repo',
        'commit', split_part(l.line, E'\t', 1),
        'title', left(split_part(l.line, E'\t', 1), 7) || ' ' || split_part(l.line, E'\t', 2),
        'command', :'command') ORDER BY n))
FROM generate_series(1, :count) AS n
JOIN line AS l ON l.number = (n - 1) % (SELECT count(*) FROM line) + 1;
COMMIT;
