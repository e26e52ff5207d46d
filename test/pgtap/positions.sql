-- Positions near the ends of what could hold them (ids.sql), in topics whose logs have come that far. Shared memory
-- knows how far; a copy of the database asks its tables.
SELECT pgjobs.create_queue('fed');
CREATE TABLE far AS SELECT 't' || n AS name, n AS first FROM unnest(ARRAY[2147483646, 9007199254740990, 9223372036854775700]) n;
SELECT pgjobs.create_topic(name) FROM far;
UPDATE pgjobs.topic t SET pruned_to = first - 1 FROM far WHERE t.name = far.name;

\set original :DBNAME
\c template1
CREATE DATABASE copy TEMPLATE :original;
\c copy
SELECT no_plan();
SELECT pgjobs.resume();
CREATE FUNCTION publish_at(log text, first bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    batch record;
BEGIN
    RETURN NEXT is(pgjobs.publish_many(log, '{1,2}') || pgjobs.publish(log, '3'), ARRAY[first, first + 1, first + 2], 'positions from ' || first);
END $$;
CREATE FUNCTION receive_at(log text, first bigint) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    expected bigint[] := ARRAY[first, first + 1, first + 2];
    batch record;
BEGIN
    RETURN NEXT is((SELECT array_agg(r."position") FROM pgjobs.read(log, first - 1) r), expected, 'read');
    SELECT array_agg(r."position") AS positions, max(token) AS token INTO batch FROM pgjobs.receive(log) r;
    RETURN NEXT is(batch.positions, expected, 'received');
    PERFORM pgjobs.ack(log, batch.token, first + 2);
    RETURN NEXT is((SELECT lag_messages FROM pgjobs.subscriptions WHERE name = log), 0::bigint, 'and acknowledged');
    RETURN NEXT lives_ok(format('SELECT pgjobs.seek(%L, %s)', log, first), 'seek back');
    RETURN NEXT is((SELECT count(*) FROM pgjobs.receive(log)), 3::bigint, 'and receive from there');
END $$;
SELECT pgjobs.subscribe(name, name), pgjobs.subscribe_queue('fed', name) FROM far;
SELECT publish_at(name, first) FROM far;
SELECT receive_at(name, first) FROM far;
SELECT pgjobs._deliver(now()) > 0;
SELECT results_eq($$SELECT (headers -> 'message' ->> 'position')::bigint FROM pgjobs.claim('fed', 10) ORDER BY 1$$,
    $$SELECT first + i FROM far, generate_series(0, 2) i ORDER BY 1$$, 'they become jobs');
SELECT * FROM finish();
