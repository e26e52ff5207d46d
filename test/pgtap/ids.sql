-- Ids near the ends of what could hold them: 2^31, 2^53 (the last whole number of a double, and of
-- JavaScript), 2^63. A life of each kind there; and when there is no next one, nothing is done by half.
SELECT no_plan();

SELECT pgjobs.create_topic('events'),
    pgjobs.create_queue('kept', stages => '{a,b}', events_topic => 'events'), pgjobs.create_queue('brief', retention => '0');

-- Six jobs from that id on: their whole lives, in one and in many calls, repeated.
CREATE FUNCTION live(first bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    ids bigint[];
    answers text[];
    lease record;
    again record;
BEGIN
    PERFORM setval('pgjobs.job_id_seq', first, false);
    ids := pgjobs.enqueue_many('kept', '{1,2}') || pgjobs.enqueue('kept', unique_key => 'k') || pgjobs.enqueue_many('brief', '{4,5,6}');
    RETURN NEXT is(ids, ARRAY(SELECT generate_series(first, first + 5)), 'ids from ' || first);
    RETURN NEXT is(pgjobs.enqueue('kept', unique_key => 'k'), ids[3], 'the holder of a key');
    FOR lease IN SELECT * FROM pgjobs.claim('kept', 3) LOOP
        PERFORM pgjobs.progress(lease.id, lease.token, 0.5);
        RETURN NEXT ok(pgjobs.extend(lease.id, lease.token) > now(), 'extend');
        RETURN NEXT is(pgjobs.complete(lease.id, lease.token), 'ready', 'a stage');
    END LOOP;
    FOR lease IN SELECT array_agg(id ORDER BY id) AS ids, array_agg(token ORDER BY id) AS tokens FROM pgjobs.claim('kept', 3) LOOP
        RETURN NEXT is(lease.ids, ids[1:3], 'claimed in order');
        RETURN NEXT is((SELECT array_agg(x ORDER BY x) FROM unnest(pgjobs.complete_many(lease.ids, lease.tokens)) x), ids[1:3], 'complete_many');
        RETURN NEXT is((SELECT array_agg(x ORDER BY x) FROM unnest(pgjobs.complete_many(lease.ids, lease.tokens)) x), ids[1:3], 'repeated');
    END LOOP;
    RETURN NEXT is((SELECT array_agg(id || ' ' || state ORDER BY id) FROM pgjobs.jobs WHERE id >= first AND queue = 'kept'),
        ARRAY(SELECT id || ' completed' FROM unnest(ids[1:3]) id), 'in the history');
    SELECT array_agg(id) AS ids, array_agg(token) AS tokens INTO lease FROM pgjobs.claim('brief', 2);
    SELECT id, token INTO again FROM pgjobs.claim('brief');
    PERFORM pgjobs.complete_many(lease.ids, lease.tokens);
    PERFORM pgjobs.complete(again.id, again.token);
    RETURN NEXT is(pgjobs.complete(again.id, again.token), 'completed', 'a repeated complete finds its receipt');
    RETURN NEXT is(pgjobs.complete(lease.ids[2], lease.tokens[2]), 'completed', 'and that of complete_many');
    RETURN NEXT throws_ok(format('SELECT pgjobs.complete(%s, %s)', lease.ids[1], lease.tokens[2]), 'PJ001', NULL, 'another token has none');
    RETURN NEXT is(pgjobs._check_frontier(), 0::bigint, 'no job is hidden');
    RETURN NEXT is(pgjobs._recount(), 0::bigint, 'the figures are right');
END $$;
CREATE TEMPORARY TABLE firsts AS SELECT n FROM unnest(ARRAY[2147483645, 4294967293, 9007199254740989, 9223372036854775802]) n;
SELECT live(n) FROM firsts;
SELECT results_eq($$SELECT DISTINCT (payload ->> 'job')::bigint FROM pgjobs.read('events', 0, 10000) WHERE payload ->> 'to' = 'completed' ORDER BY 1$$,
    $$SELECT n + i FROM firsts, generate_series(0, 2) i ORDER BY 1$$, 'events name the jobs');

SELECT throws_ok($$SELECT pgjobs.enqueue('kept')$$, '2200H', NULL, 'there is no id after 2^63 - 1');
SELECT throws_ok($$SELECT pgjobs.enqueue_many('kept', '{1,2}')$$, '2200H', NULL, 'not for many either');
SELECT setval('pgjobs.job_id_seq', 9223372036854775806, false);
SELECT throws_ok($$SELECT pgjobs.enqueue_many('kept', '{1,2,3}')$$, '2200H', NULL, 'when some get one');
SELECT is((SELECT count(*) FROM pgjobs.job), 0::bigint, 'none is there');
SELECT is((SELECT sum(ready + running + scheduled) FROM pgjobs.queues), 0::numeric, 'or counted');

SELECT * FROM finish();
