-- The database of the fuzzers: roles with all rights, some and none, queues, topics, tables and
-- what is in them. fuzz.renew() makes anew what a fuzzer has dropped, and adds a little of everything.

CREATE EXTENSION pgjobs;
CREATE EXTENSION amcheck;
CREATE ROLE fuzz_owner LOGIN;
CREATE ROLE fuzz_worker LOGIN;
CREATE ROLE fuzz_nobody LOGIN;

-- Whoever may call a function is asked for his rights inside of it.
GRANT USAGE ON SCHEMA pgjobs TO fuzz_owner, fuzz_worker, fuzz_nobody;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO fuzz_owner, fuzz_worker, fuzz_nobody;
GRANT SELECT ON pgjobs.jobs, pgjobs.attempts, pgjobs.stages, pgjobs.queues, pgjobs.workers, pgjobs.topics,
    pgjobs.subscriptions, pgjobs.attached_tables TO fuzz_owner, fuzz_worker, fuzz_nobody;

CREATE SCHEMA fuzz;
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;
CREATE TYPE fuzz.status AS ENUM ('new', 'doing', 'done', 'failed');
CREATE TABLE fuzz.own (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    status fuzz.status NOT NULL DEFAULT 'new',
    changed_at timestamptz,
    token bigint,
    priority integer NOT NULL DEFAULT 0
);
CREATE TABLE fuzz.pair (
    "a ""b" text,
    b integer,
    status text NOT NULL DEFAULT 'new',
    changed_at timestamptz,
    token bigint,
    priority integer,
    PRIMARY KEY ("a ""b", b)
);
CREATE TABLE fuzz.scratch (id bigint PRIMARY KEY, status text, changed_at timestamptz, token bigint, priority bigint);
CREATE TABLE fuzz.parted (id bigint PRIMARY KEY, status text) PARTITION BY RANGE (id);
CREATE TABLE fuzz.parted_1 PARTITION OF fuzz.parted FOR VALUES FROM (0) TO (1000);
CREATE VIEW fuzz.seen AS SELECT * FROM fuzz.own;
ALTER TABLE fuzz.own OWNER TO fuzz_owner;
ALTER TABLE fuzz.pair OWNER TO fuzz_owner;
ALTER TABLE fuzz.scratch OWNER TO fuzz_owner;
ALTER TABLE fuzz.parted OWNER TO fuzz_owner;
GRANT SELECT, INSERT, UPDATE ON fuzz.own, fuzz.pair, fuzz.scratch TO fuzz_worker;

-- Nothing a fuzzer has done makes this an internal error.
CREATE FUNCTION fuzz.attempt(command text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
EXCEPTION WHEN OTHERS THEN
    IF SQLSTATE LIKE 'XX%' THEN RAISE; END IF;
END $$;

CREATE FUNCTION fuzz.renew() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    command text;
BEGIN
    FOREACH command IN ARRAY ARRAY[
        $_$SELECT pgjobs.create_topic('happened')$_$,
        $_$SELECT pgjobs.create_topic('news', '1 hour')$_$,
        $_$SELECT pgjobs.create_queue('dead')$_$,
        $_$SELECT pgjobs.create_queue('plain')$_$,
        $_$SELECT pgjobs.create_queue('ci', ARRAY['a', 'b', 'c'], notify => 'events',
            events_topic => 'happened', durable_claims => true)$_$,
        $_$SELECT pgjobs.create_queue('short', lease => '20 ms', max_attempts => 2, backoff => '1 ms',
            retention => '0', dead_retention => '0', dead_letter => 'dead')$_$,
        $_$SELECT pgjobs.create_queue('fed', notify => 'off')$_$,
        $_$SELECT pgjobs.subscribe('s1', 'news', from_position => 0)$_$,
        $_$SELECT pgjobs.subscribe('s2', 'happened')$_$,
        $_$SELECT pgjobs.subscribe_queue('fed', 'news', key_pattern => 'k%')$_$,
        $_$SELECT pgjobs.attach_table('fuzz.own', 'status', '[{"stage": "do", "waiting": "new",
            "working": "doing", "done": "done", "failed": "failed", "stale_after": "50 ms"}]',
            changed_at => 'changed_at', token => 'token', priority => 'priority', topic => 'news')$_$,
        $_$SELECT pgjobs.attach_table('fuzz.pair', 'status', '[
            {"stage": "a", "waiting": "new", "working": "doing", "done": "half"},
            {"stage": "b", "waiting": "half", "working": "again", "done": "done", "failed": "failed",
             "stale_after": "1 day"}]', channel => 'pair', transitions => '{"done": ["new"]}')$_$,
        $_$SELECT pgjobs.resume_queue(name) FROM pgjobs.queues WHERE paused$_$,
        $_$SELECT pgjobs.grant_queue(name, 'fuzz_owner', ARRAY['own', 'produce', 'work', 'operate', 'monitor'])
            FROM pgjobs.queues WHERE name IN ('plain', 'ci', 'short', 'dead')$_$,
        $_$SELECT pgjobs.grant_topic(name, 'fuzz_owner', ARRAY['own', 'publish', 'subscribe', 'monitor'])
            FROM pgjobs.topics$_$,
        $_$SELECT pgjobs.grant_queue('plain', 'fuzz_worker', ARRAY['produce', 'work'])$_$,
        $_$SELECT pgjobs.grant_queue('ci', 'fuzz_worker', ARRAY['work', 'monitor'])$_$,
        $_$SELECT pgjobs.grant_topic('news', 'fuzz_worker', ARRAY['publish', 'subscribe'])$_$,
        $_$SELECT pgjobs.enqueue_many(name, array_fill('{"a": 1}'::jsonb, ARRAY[20])) FROM pgjobs.queues$_$,
        $_$SELECT pgjobs.publish_many(name, array_fill('{"a": 1}'::jsonb, ARRAY[20]), array_fill('k1'::text, ARRAY[20]))
            FROM pgjobs.topics$_$,
        $_$INSERT INTO fuzz.own (priority) SELECT n FROM generate_series(1, 20) n$_$,
        $_$INSERT INTO fuzz.pair ("a ""b", b) SELECT 'x', n FROM generate_series(1, 20) n ON CONFLICT DO NOTHING$_$,
        $_$UPDATE fuzz.pair SET status = 'new' WHERE status = 'done'$_$]
    LOOP
        PERFORM fuzz.attempt(command);
    END LOOP;
END $$;
SELECT fuzz.renew();
