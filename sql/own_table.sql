-- Your own table as a job table: attach it, claim and finish its rows, take stale ones back, detach it.
\set SHOW_CONTEXT never

-- ---- the story ----

CREATE TYPE ci_status AS ENUM ('new', 'initializing', 'initialized', 'running', 'success', 'error');
CREATE TABLE ci_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository text NOT NULL,
    status ci_status NOT NULL DEFAULT 'new',
    changed_at timestamptz NOT NULL DEFAULT now(),
    fence bigint
);
INSERT INTO ci_runs (repository) SELECT 'repo' || n FROM generate_series(1, 4) n;
SELECT pgjobs.attach_table('ci_runs', 'status', '[
    {"stage": "initialize", "waiting": "new", "working": "initializing", "done": "initialized", "failed": "error", "stale_after": "1 hour"},
    {"stage": "run", "waiting": "initialized", "working": "running", "done": "success", "failed": "error", "stale_after": "2 hours"}
]', changed_at => 'changed_at', token => 'fence', channel => 'ci');
SELECT target, stage, number, status_column, waiting, working, done, failed, stale_after, changed_at_column, token_column,
    priority_column, channel, topic, quarantined, enabled
FROM pgjobs.attached_tables \gx

-- Rows are claimed in the order of the primary key, moved and returned by one call.
SELECT id, repository, status, fence IS NOT NULL AS fenced, changed_at > now() - interval '1 minute' AS stamped FROM pgjobs.claim_row(NULL::ci_runs, 'initialize');
SELECT id, status FROM pgjobs.claim_row(NULL::ci_runs, 'initialize', max_rows => 2);
SELECT (pgjobs.claim_row(NULL::ci_runs, 'initialize')).repository;
SELECT id FROM pgjobs.claim_row(NULL::ci_runs, 'initialize', 10);
SELECT pgjobs.finish_row('ci_runs', id::text, 'initialize') FROM ci_runs WHERE id <= 2 ORDER BY id;
SELECT pgjobs.finish_row('ci_runs', '3', 'initialize', ok => false);
SELECT id, status FROM ci_runs ORDER BY id;

-- Finished already, in another stage, or not there: false.
SELECT pgjobs.finish_row('ci_runs', '1', 'initialize'), pgjobs.finish_row('ci_runs', '4', 'run'), pgjobs.finish_row('ci_runs', '99', 'run');

-- The fence.
SELECT fence FROM ci_runs WHERE id = 4 \gset
SELECT pgjobs.finish_row('ci_runs', '4', 'initialize', token => :fence + 1);
SELECT pgjobs.finish_row('ci_runs', '4', 'initialize', token => :fence);
SELECT pgjobs.finish_row('ci_runs', '4', 'initialize', token => :fence) AS repeated;
SELECT pgjobs.finish_row('ci_runs', '99', 'initialize', token => :fence);
SELECT id, changed_at, fence <> :fence AS new_token FROM pgjobs.claim_row(NULL::ci_runs, 'run', 3) WHERE id = 4 \gset run_
\echo :run_new_token
SELECT pgjobs.finish_row('ci_runs', '4', 'initialize', token => :fence);
SELECT pgjobs.finish_row('ci_runs', '4', 'run', token => :fence);
SELECT pgjobs.finish_row('ci_runs', '4', 'run', changed_at => '2001-01-01');
SELECT pgjobs.finish_row('ci_runs', '4', 'run', changed_at => :'run_changed_at');
SELECT id, status FROM ci_runs ORDER BY id;

-- ---- plain statements ----

UPDATE ci_runs SET status = 'new' WHERE id = 4;
UPDATE ci_runs SET status = 'success' WHERE id = 1;
UPDATE ci_runs SET status = 'initialized' WHERE id = 3;
UPDATE ci_runs SET repository = 'other', status = status WHERE id = 3;
INSERT INTO ci_runs (repository, status) VALUES ('imported', 'success'), ('imported', 'running');
SELECT status FROM ci_runs WHERE repository = 'imported' ORDER BY id;
-- A worker may take rows by itself, and gets a token, too; who gives them back loses it.
INSERT INTO ci_runs (repository) VALUES ('plain');
UPDATE ci_runs SET status = 'initializing' WHERE repository = 'plain' RETURNING status, fence BETWEEN 1 AND 9007199254740991 AS fenced;
UPDATE ci_runs SET status = 'new' WHERE repository = 'plain' RETURNING status, fence;
UPDATE ci_runs SET status = 'initializing', fence = 42 WHERE repository = 'plain' RETURNING fence;
UPDATE ci_runs SET status = 'initialized' WHERE repository = 'plain' RETURNING status, fence;

-- ---- stale rows ----

SELECT w.key, w.stage, w.due_at - w.since AS after FROM pgjobs.working_row w WHERE w.target = 'ci_runs'::regclass ORDER BY w.key;
SELECT pgjobs._reap_rows(now() + interval '110 minutes') AS reaped;
SELECT pgjobs._reap_rows(now() + interval '130 minutes') AS reaped;
SELECT id, status, fence IS NOT NULL AS fenced FROM ci_runs ORDER BY id;
SELECT count(*) FROM pgjobs.working_row;
-- Who had it is refused.
SELECT id, fence FROM pgjobs.claim_row(NULL::ci_runs, 'run') \gset old_
SELECT pgjobs._reap_rows(now() + interval '3 hours') AS reaped;
SELECT pgjobs.finish_row('ci_runs', :'old_id', 'run', token => :old_fence);
SELECT id = :old_id AS the_same, fence <> :old_fence AS new_token FROM pgjobs.claim_row(NULL::ci_runs, 'run');
SELECT pgjobs.finish_row('ci_runs', :'old_id', 'run', token => :old_fence);
-- The record counts, not the column.
UPDATE ci_runs SET changed_at = '2001-01-01' WHERE id = :old_id;
SELECT pgjobs._reap_rows(now() + interval '1 hour') AS reaped;
-- What was deleted or undone leaves nothing behind.
BEGIN;
SELECT count(*) FROM pgjobs.claim_row(NULL::ci_runs, 'run', 10);
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM pgjobs.claim_row(NULL::ci_runs, 'run', 10);
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM pgjobs.working_row;
DELETE FROM ci_runs WHERE id = :old_id;
SELECT pgjobs._reap_rows(now() + interval '3 hours') AS reaped;
SELECT count(*) FROM pgjobs.working_row;

-- Rows that were worked on before: the column says since when, in the TimeZone of the database.
SELECT pgjobs.detach_table('ci_runs');
SET timezone = 'Asia/Kathmandu';
CREATE TABLE before (id text PRIMARY KEY, state text, at timestamp);
INSERT INTO before VALUES ('old', 'busy', now() AT TIME ZONE 'UTC' - interval '50 minutes'), ('young', 'busy', now() AT TIME ZONE 'UTC'), ('unknown', 'busy', NULL);
SELECT pgjobs.attach_table('before', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]', changed_at => 'at');
RESET timezone;
SELECT w.key, round(extract(epoch FROM now() - w.since) / 60) AS minutes FROM pgjobs.working_row w ORDER BY w.key;
SELECT pgjobs._reap_rows(now() + interval '20 minutes') AS reaped;
SELECT id, state FROM before ORDER BY id;
-- Without a state "failed" nothing fails; without a column nothing is compared.
SELECT pgjobs.finish_row('before', 'young', 's', ok => false);
SELECT pgjobs.finish_row('before', 'young', 's', token => 1);
SELECT pgjobs.finish_row('before', 'young', 's');
-- Read and compared in the session's TimeZone.
SELECT at AS before_at FROM pgjobs.claim_row(NULL::before, 's') \gset
SELECT pgjobs.finish_row('before', 'old', 's', changed_at => :'before_at');
DROP TABLE before;
SELECT count(*) FROM pgjobs.attached_tables;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT count(*) FROM pgjobs.working_row;

-- Many rows at once are recorded together; who left meanwhile, or came anew, is not taken back.
CREATE TABLE many (id int PRIMARY KEY, state text DEFAULT 'open');
SELECT pgjobs.attach_table('many', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]');
INSERT INTO many SELECT n FROM generate_series(1, 2500) n;
UPDATE many SET state = 'busy' WHERE id <= 2400;
SELECT count(*) < 10 AS few FROM pgjobs.working_row;
UPDATE pgjobs.working_row SET since = since - interval '30 minutes', due_at = due_at - interval '30 minutes';
UPDATE many SET state = 'closed' WHERE id <= 1000;
UPDATE many SET state = 'open' WHERE id BETWEEN 1001 AND 1600;
SELECT count(*) FROM pgjobs.claim_row(NULL::many, 's', 100);
UPDATE many SET state = 'busy' WHERE id BETWEEN 1101 AND 1500;
DELETE FROM many WHERE id BETWEEN 2001 AND 2300 OR id > 2396;
INSERT INTO many SELECT n, 'busy' FROM generate_series(2001, 2250) n;
INSERT INTO many VALUES (2397, 'busy');
SELECT pgjobs._reap_rows(now() + interval '40 minutes') AS reaped;
SELECT state, count(*), min(id), max(id) FROM many GROUP BY state ORDER BY state;
-- Also one that had a record of its own when it was deleted.
DELETE FROM many WHERE id BETWEEN 1001 AND 1100;
INSERT INTO many SELECT n, 'open' FROM generate_series(1001, 1100) n;
UPDATE pgjobs.working_row SET since = since - interval '30 minutes', due_at = due_at - interval '30 minutes';
UPDATE many SET state = 'busy' WHERE id BETWEEN 1001 AND 1100 OR id BETWEEN 1501 AND 1600;
SELECT pgjobs._reap_rows(now() + interval '40 minutes') AS reaped;
SELECT state, count(*), min(id), max(id) FROM many GROUP BY state ORDER BY state;
SELECT pgjobs._reap_rows(now() + interval '70 minutes') AS reaped;
SELECT state, count(*), min(id), max(id) FROM many GROUP BY state ORDER BY state;
SELECT count(*) FROM pgjobs.working_row;
DROP TABLE many;

-- Claims read the index of waiting rows, also where the statistics are of a time when all rows waited.
CREATE TABLE plans (id int PRIMARY KEY, state text DEFAULT 'open') WITH (autovacuum_enabled = off);
SELECT pgjobs.attach_table('plans', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}, {"stage": "t", "waiting": "closed", "working": "at it", "done": "end"}]');
INSERT INTO plans SELECT n FROM generate_series(1, 3000) n;
ANALYZE plans;
SELECT count(*) FROM pgjobs.claim_row(NULL::plans, 's', 2500);
SELECT id FROM pgjobs.claim_row(NULL::plans, 's');
SELECT pg_stat_force_next_flush();
SELECT indexrelname, idx_scan FROM pg_stat_user_indexes WHERE relname = 'plans' ORDER BY 1;
DROP TABLE plans;

-- Never more rows than were asked for, with a plan that looks at inner rows again and again: no statistics, loops only.
CREATE TABLE split (id int, part int, state text DEFAULT 'open', PRIMARY KEY (part, id)) PARTITION BY LIST (part);
CREATE TABLE split_1 PARTITION OF split FOR VALUES IN (1) WITH (autovacuum_enabled = off);
CREATE TABLE split_2 PARTITION OF split FOR VALUES IN (2) WITH (autovacuum_enabled = off);
SELECT pgjobs.attach_table('split', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]');
INSERT INTO split SELECT n, 1 + n % 2 FROM generate_series(1, 1000) n;
UPDATE pg_class SET relpages = 0, reltuples = 0 WHERE relname IN ('split_1', 'split_2');
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_material = off;
SELECT n AS asked, count(*) AS calls, min(got) AS least, max(got) AS most FROM generate_series(1, 40) i, generate_series(1, 4) n,
    LATERAL (SELECT count(*) AS got FROM pgjobs.claim_row(NULL::split, 's', n + 0 * i)) c GROUP BY n ORDER BY n;
SELECT state, count(*) FROM split GROUP BY state ORDER BY state;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT state, count(*) FROM split GROUP BY state ORDER BY state;
RESET enable_hashjoin;
RESET enable_mergejoin;
RESET enable_material;
DROP TABLE split;

-- ---- what attach adds, detach removes ----

CREATE FUNCTION pg_temp.added(target regclass) RETURNS TABLE (kind text, definition text) LANGUAGE sql AS $$
    SELECT 'trigger', regexp_replace(pg_get_triggerdef(oid), '''home'', ''\d+''', '''home'', …') || ' ' || tgenabled::text FROM pg_trigger
    WHERE tgrelid = target AND NOT tgisinternal
    UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = target
    UNION ALL SELECT 'column', attname FROM pg_attribute WHERE attrelid = target AND attnum > 0
    ORDER BY 1, 2 $$;
CREATE TABLE jobs (id int PRIMARY KEY, "Status" varchar(20), prio int);
\set two_stages '[{"stage": "a", "waiting": "one", "working": "doing one", "done": "two"}, {"stage": "b", "waiting": "two", "working": "doing two", "done": "done", "failed": "don''t", "stale_after": "90 s"}]'
SELECT pgjobs.attach_table('jobs', 'Status', :'two_stages', priority => 'prio', transitions => '{"don''t": ["one"], "one": ["don''t"]}');
\pset format unaligned
SELECT * FROM pg_temp.added('jobs');
SELECT pgjobs.attach_table('jobs', 'Status', :'two_stages');
SELECT pgjobs.detach_table('jobs');
SELECT * FROM pg_temp.added('jobs');
SELECT pgjobs.detach_table('jobs');
-- An index that serves is used; the user's stays.
CREATE INDEX mine ON jobs (id) WHERE "Status" = 'one';
CREATE INDEX more ON jobs ("Status", id);
SELECT pgjobs.attach_table('jobs', 'Status', :'two_stages');
SELECT kind, definition FROM pg_temp.added('jobs') WHERE kind = 'index';
SELECT pgjobs.detach_table('jobs');
DROP INDEX more;
SELECT pgjobs.attach_table('jobs', 'Status', :'two_stages');
SELECT kind, definition FROM pg_temp.added('jobs') WHERE kind = 'index';
SELECT pgjobs.detach_table('jobs');
SELECT kind, definition FROM pg_temp.added('jobs') WHERE kind = 'index';
\pset format aligned

-- ---- priority, transitions, states that no stage has ----

SELECT pgjobs.attach_table('jobs', 'Status', :'two_stages', priority => 'prio', transitions => '{"don''t": ["one"], "one": ["don''t"]}');
INSERT INTO jobs VALUES (1, 'one', 3), (2, 'one', 1), (3, 'one', NULL), (4, 'one', 1), (5, 'draft', 0), (6, NULL, 0);
SELECT id FROM pgjobs.claim_row(NULL::jobs, 'a', 3);
UPDATE jobs SET "Status" = 'don''t' WHERE id = 3;
UPDATE jobs SET "Status" = 'one' WHERE id = 3;
UPDATE jobs SET "Status" = 'nowhere' WHERE id = 3;
UPDATE jobs SET "Status" = NULL WHERE id = 3;
UPDATE jobs SET "Status" = 'two' WHERE id = 3;
UPDATE jobs SET "Status" = 'one' WHERE id IN (5, 6);
SELECT id, "Status" FROM jobs ORDER BY id;
DROP TABLE jobs;

-- ---- keys ----

CREATE TABLE pairs (day date, "Name" text, state text, n int, PRIMARY KEY (day, "Name"));
SELECT pgjobs.attach_table('pairs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]');
INSERT INTO pairs (day, "Name", state) VALUES ('2026-01-02', 'a "b", c', 'open'), ('2026-01-01', 'z', 'open');
SET datestyle = 'SQL, DMY';
SELECT "Name" FROM pgjobs.claim_row(NULL::pairs, 's', 2);
SELECT key FROM pgjobs.working_row ORDER BY key;
RESET datestyle;
SELECT pgjobs.finish_row('pairs', '["2026-01-02", "a \"b\", c"]', 's');
SELECT pgjobs.finish_row('pairs', '["2026-01-01"]', 's');
SELECT pgjobs.finish_row('pairs', '{}', 's');
SELECT pgjobs.finish_row('pairs', 'no json', 's');
SELECT pgjobs.finish_row('pairs', '["never", "z"]', 's');
UPDATE pairs SET state = 'gone' WHERE "Name" = 'z';
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT * FROM pairs ORDER BY day;
DROP TABLE pairs;

-- ---- partitions ----

CREATE TABLE parts (id int, region text, junk text, state text, at timestamptz, fence bigint, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_eu PARTITION OF parts FOR VALUES IN ('eu');
CREATE TABLE parts_us (fence bigint, state text, id int NOT NULL, at timestamptz, junk text, region text NOT NULL);
ALTER TABLE parts DROP COLUMN junk;
ALTER TABLE parts_us DROP COLUMN junk;
SELECT pgjobs.attach_table('parts', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]', changed_at => 'at', token => 'fence');
ALTER TABLE parts ATTACH PARTITION parts_us FOR VALUES IN ('us');
INSERT INTO parts (id, region, state) SELECT n, r, 'open' FROM generate_series(1, 3) n, unnest(ARRAY['eu', 'us']) r;
SELECT id, region, state, fence IS NOT NULL AS fenced, at IS NOT NULL AS stamped FROM pgjobs.claim_row(NULL::parts, 's', 4);
SELECT region, id, state FROM parts ORDER BY region, id;
UPDATE parts_us SET state = 'closed' WHERE id = 2;
SELECT pgjobs.finish_row('parts', '["us", 1]', 's'), pgjobs.finish_row('parts', '["eu", 1]', 's');
SELECT pgjobs.finish_row('parts_us', '["us", 1]', 's');
SELECT pgjobs.attach_table('parts_eu', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]');
SELECT pgjobs.detach_table('parts_eu');
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT region, id, state FROM parts ORDER BY region, id;
-- A partition that leaves is a table like others.
ALTER TABLE parts DETACH PARTITION parts_us;
UPDATE parts_us SET state = 'closed' WHERE id = 2;
SELECT region, id, state FROM pgjobs.claim_row(NULL::parts, 's', 10);
TRUNCATE parts;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT pgjobs.detach_table('parts');
SELECT count(*) FROM pg_trigger WHERE tgrelid IN ('parts'::regclass, 'parts_eu'::regclass, 'parts_us'::regclass) AND NOT tgisinternal;
DROP TABLE parts, parts_us;
-- The status decides in which partition a row is.
CREATE TABLE moving (id int, state text, PRIMARY KEY (id, state)) PARTITION BY LIST (state);
CREATE TABLE moving_open PARTITION OF moving FOR VALUES IN ('open');
CREATE TABLE moving_rest PARTITION OF moving DEFAULT;
SELECT pgjobs.attach_table('moving', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]');
INSERT INTO moving VALUES (1, 'open'), (2, 'open');
SELECT id, state FROM pgjobs.claim_row(NULL::moving, 's', 2);
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
UPDATE moving SET state = 'busy';
UPDATE moving SET state = 'open' WHERE id = 2;
UPDATE moving SET state = 'nowhere' WHERE id = 1;
SELECT tableoid::regclass, * FROM moving ORDER BY id;
DROP TABLE moving;

-- ---- other things on the table ----

CREATE TABLE busy (id int PRIMARY KEY, state text DEFAULT 'open', shout text GENERATED ALWAYS AS (upper(state)) STORED, log text DEFAULT '', pgjobs_row int);
ALTER TABLE busy DROP COLUMN pgjobs_row;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.log := NEW.log || OLD.state || '>' || NEW.state || ' '; RETURN NEW; END $$;
CREATE TRIGGER a_note BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER z_note BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION note();
SELECT pgjobs.attach_table('busy', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "failed": "bad"}]');
INSERT INTO busy VALUES (1), (2), (3);
SELECT * FROM pgjobs.claim_row(NULL::busy, 's', 2);
SELECT pgjobs.finish_row('busy', '1', 's');
INSERT INTO busy VALUES (3) ON CONFLICT (id) DO UPDATE SET state = 'busy';
INSERT INTO busy VALUES (3) ON CONFLICT (id) DO UPDATE SET state = 'open' RETURNING *;
SELECT * FROM busy ORDER BY id;
-- A trigger of the user's cannot lead a row where it must not go.
CREATE FUNCTION lead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.state := 'bad'; RETURN NEW; END $$;
CREATE TRIGGER zz_lead BEFORE UPDATE ON busy FOR EACH ROW WHEN (OLD.state = 'open') EXECUTE FUNCTION lead();
UPDATE busy SET state = 'busy' WHERE id = 3;
DROP TRIGGER zz_lead ON busy;
-- What keeps a row as it is keeps it from being claimed.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER zz_keep BEFORE UPDATE ON busy FOR EACH ROW EXECUTE FUNCTION keep();
SELECT * FROM pgjobs.claim_row(NULL::busy, 's', 2);
SELECT pgjobs.finish_row('busy', '2', 's');
DROP TABLE busy;

-- ---- changes of the table ----

ALTER TABLE ci_runs RENAME COLUMN fence TO "the fence";
SELECT pgjobs.attach_table('ci_runs', 'status', '[{"stage": "initialize", "waiting": "new", "working": "initializing", "done": "initialized", "failed": "error", "stale_after": "1 hour"}]', changed_at => 'changed_at', token => 'the fence');
TRUNCATE ci_runs;
INSERT INTO ci_runs (repository) SELECT 'repo' || n FROM generate_series(1, 4) n;
SELECT status, "the fence" IS NOT NULL AS fenced FROM pgjobs.claim_row(NULL::ci_runs, 'initialize');
CREATE SCHEMA "Other";
ALTER TABLE ci_runs RENAME COLUMN status TO "State";
ALTER TABLE ci_runs RENAME COLUMN id TO "key";
ALTER TABLE ci_runs RENAME COLUMN "the fence" TO token;
ALTER TABLE ci_runs ADD COLUMN added int DEFAULT 7;
ALTER TABLE ci_runs DROP COLUMN repository;
ALTER TABLE ci_runs RENAME TO "Runs";
ALTER TABLE "Runs" SET SCHEMA "Other";
ALTER TYPE ci_status SET SCHEMA "Other";
SELECT "State", token IS NOT NULL AS fenced, added FROM pgjobs.claim_row(NULL::"Other"."Runs", 'initialize');
UPDATE "Other"."Runs" SET "State" = 'success' WHERE "State" = 'initializing';
SELECT target, status_column, token_column FROM pgjobs.attached_tables;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
-- The server says which trigger is in the way of what would break it.
ALTER TABLE "Other"."Runs" ALTER COLUMN "State" TYPE text;
ALTER TABLE "Other"."Runs" DROP COLUMN token;
ALTER TABLE "Other"."Runs" DROP CONSTRAINT ci_runs_pkey;
SELECT name, ok, detail FROM pgjobs.health() WHERE name IN ('attached tables', 'stale rows');
UPDATE "Other"."Runs" SET "State" = 'initializing';
SELECT * FROM pgjobs.claim_row(NULL::"Other"."Runs", 'initialize');
ALTER TABLE "Other"."Runs" ADD PRIMARY KEY (key);
SELECT name, ok, detail FROM pgjobs.health() WHERE name IN ('attached tables', 'stale rows');
ALTER TABLE "Other"."Runs" DISABLE TRIGGER pgjobs_changed;
SELECT name, ok, detail FROM pgjobs.health() WHERE name IN ('attached tables', 'stale rows');
SELECT enabled FROM pgjobs.attached_tables;
ALTER TABLE "Other"."Runs" ENABLE ALWAYS TRIGGER pgjobs_changed;
-- A value of the type that has another name now.
ALTER TYPE "Other".ci_status RENAME VALUE 'initialized' TO 'ready';
\c -
\set SHOW_CONTEXT never
UPDATE "Other"."Runs" SET "State" = 'success' WHERE "State" = 'initializing';
SELECT * FROM pgjobs.claim_row(NULL::"Other"."Runs", 'initialize');
ALTER TYPE "Other".ci_status RENAME VALUE 'ready' TO 'initialized';
-- Whoever forces it leaves a table that pgjobs lets alone, and that can be detached.
ALTER TABLE "Other"."Runs" DROP COLUMN token CASCADE;
UPDATE "Other"."Runs" SET "State" = 'success' WHERE "State" = 'initializing';
SELECT name, ok, detail FROM pgjobs.health() WHERE name IN ('attached tables', 'stale rows');
SELECT * FROM pgjobs.claim_row(NULL::"Other"."Runs", 'initialize');
SELECT pgjobs.detach_table('"Other"."Runs"');
SELECT count(*) FROM pg_trigger WHERE tgrelid = '"Other"."Runs"'::regclass AND NOT tgisinternal;
DROP SCHEMA "Other" CASCADE;

-- ---- rights ----

CREATE ROLE own_owner;
CREATE ROLE own_worker;
CREATE ROLE own_reader;
GRANT USAGE ON SCHEMA pgjobs TO own_owner, own_worker, own_reader;
GRANT EXECUTE ON FUNCTION pgjobs.attach_table, pgjobs.detach_table TO own_owner, own_worker;
GRANT EXECUTE ON FUNCTION pgjobs.claim_row, pgjobs.finish_row, pgjobs._attached_tables TO own_owner, own_worker, own_reader;
GRANT SELECT ON pgjobs.attached_tables TO own_owner, own_worker, own_reader;
CREATE TABLE shared (id int PRIMARY KEY, tenant text, state text DEFAULT 'open');
ALTER TABLE shared OWNER TO own_owner;
GRANT SELECT, UPDATE, INSERT ON shared TO own_worker;
GRANT SELECT (id) ON shared TO own_reader;
\set one_stage '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]'
SET ROLE own_worker;
SELECT pgjobs.attach_table('shared', 'state', :'one_stage');
SET ROLE own_owner;
SELECT pgjobs.attach_table('shared', 'state', :'one_stage');
SET ROLE own_worker;
INSERT INTO shared (id, tenant) VALUES (1, 'a'), (2, 'own_worker'), (3, 'own_worker'), (4, 'b');
SELECT pgjobs.detach_table('shared');
SELECT id FROM pgjobs.claim_row(NULL::shared, 's');
SELECT pgjobs.finish_row('shared', '1', 's');
SELECT target, stage FROM pgjobs.attached_tables;
SET ROLE own_reader;
SELECT id FROM pgjobs.claim_row(NULL::shared, 's');
SELECT pgjobs.finish_row('shared', '1', 's');
SELECT target, stage FROM pgjobs.attached_tables;
-- Row security is the caller's.
RESET ROLE;
ALTER TABLE shared ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON shared USING (tenant = current_user);
SET ROLE own_worker;
SELECT id FROM pgjobs.claim_row(NULL::shared, 's', 10);
RESET ROLE;
SELECT id FROM pgjobs.claim_row(NULL::shared, 's', 10);
-- Stale rows are taken back by the owner: his triggers run as he, in a restricted context.
CREATE FUNCTION whoami() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.tenant := current_user; RETURN NEW; END $$;
CREATE TRIGGER who BEFORE UPDATE ON shared FOR EACH ROW EXECUTE FUNCTION whoami();
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT * FROM shared ORDER BY id;
-- A deferred trigger cannot be fired there: before 17, whoever attaches such a table is told (030_own_table).
CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON shared DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keep();
SET log_min_messages = error;
SET client_min_messages = error;
SET ROLE own_owner;
SELECT pgjobs.detach_table('shared');
SELECT pgjobs.attach_table('shared', 'state', :'one_stage');
RESET ROLE;
RESET client_min_messages;
RESET log_min_messages;
SELECT has_function_privilege('public', 'pgjobs.claim_row(anyelement, text, bigint)', 'EXECUTE') AS public_may;

-- ---- quarantine ----

CREATE TEMP TABLE home AS SELECT * FROM pgjobs.home;
DELETE FROM pgjobs.home;
SELECT quarantined FROM pgjobs.attached_tables;
SELECT id FROM pgjobs.claim_row(NULL::shared, 's');
CALL pgjobs.wait_row('shared', 's', '0');
UPDATE shared SET state = 'busy' WHERE id IN (2, 3);
UPDATE shared SET state = 'open' WHERE id = 3;
UPDATE shared SET state = 'closed' WHERE id = 3;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
DELETE FROM pgjobs.working_row;
SELECT pgjobs.resume();
SELECT quarantined, enabled FROM pgjobs.attached_tables;
SELECT key, stage FROM pgjobs.working_row;
DROP TRIGGER late ON shared;
SELECT pgjobs._reap_rows(now() + interval '2 hours') AS reaped;
SELECT id, state FROM shared ORDER BY id;
DROP TABLE shared;
DROP OWNED BY own_owner, own_worker, own_reader;
DROP ROLE own_owner, own_worker, own_reader;

-- ---- topic ----

SELECT pgjobs.create_topic('runs');
CREATE TABLE told (id int PRIMARY KEY, state text DEFAULT 'open');
SELECT pgjobs.attach_table('told', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]', topic => 'runs');
INSERT INTO told VALUES (1), (2);
SELECT count(*) FROM pgjobs.claim_row(NULL::told, 's');
BEGIN;
SELECT count(*) FROM pgjobs.claim_row(NULL::told, 's');
ROLLBACK;
SELECT pgjobs.finish_row('told', '1', 's');
SELECT m.key, m.payload - 'at' AS payload FROM pgjobs.read('runs', 0) m;
SELECT pgjobs.drop_topic('runs');
SELECT name, ok, detail FROM pgjobs.health() WHERE name IN ('attached tables', 'stale rows');
UPDATE told SET state = 'busy' WHERE id = 2;
DROP TABLE told;

-- ---- bad input ----

CREATE TABLE plain (id int, state text);
CREATE TABLE good (id int PRIMARY KEY, state text, n int, made text GENERATED ALWAYS AS ('x') STORED);
CREATE VIEW view AS SELECT * FROM good;
CREATE TEMP TABLE temporary (id int PRIMARY KEY, state text);
CREATE FUNCTION pg_temp.refused(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE 'SELECT pgjobs.' || call;
    RETURN 'ACCEPTED';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || message || CASE WHEN detail <> '' THEN ' / ' || detail ELSE '' END
        || CASE WHEN hint = '' THEN ' (NO HINT)' ELSE '' END;
END $$;
\pset format unaligned
\pset fieldsep ' -> '
\pset tuples_only on
SELECT a, pg_temp.refused(format('attach_table(%s)', a)) FROM unnest(ARRAY[
    $$'plain', 'state', '[]'$$, $$'view', 'state', '[]'$$, $$'temporary', 'state', '[]'$$, $$'pg_class', 'relname', '[]'$$, $$'pgjobs.queue', 'name', '[]'$$,
    $$4294967295, 'state', '[]'$$, $$'good', 'nothing', '[]'$$, $$'good', 'n', '[]'$$, $$'good', 'made', '[]'$$,
    $$'good', 'state', '[]', changed_at => 'n'$$, $$'good', 'state', '[]', token => 'n'$$, $$'good', 'state', '[]', priority => 'nothing'$$,
    $$'good', 'state', '[]', token => 'state'$$,
    $$'good', 'state', '[]'$$, $$'good', 'state', '{}'$$, $$'good', 'state', '"x"'$$, $$'good', 'state', '[1]'$$, $$'good', 'state', '[{}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": 1}]'$$, $$'good', 'state', '[{"stage": "s", "color": "red"}]'$$,
    $$'good', 'state', '[{"stage": "Not a name", "waiting": "a", "working": "b", "done": "c"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "", "working": "b", "done": "c"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "a", "done": "c"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c", "stale_after": "soon"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c", "stale_after": "-1 s"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}, {"stage": "s", "waiting": "d", "working": "e", "done": "f"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}, {"stage": "t", "waiting": "a", "working": "e", "done": "f"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}, {"stage": "t", "waiting": "b", "working": "e", "done": "f"}]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]', channel => ''$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]', topic => 'nothing'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]', transitions => '[]'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]', transitions => '{"a": "c"}'$$,
    $$'good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]', transitions => '{"a": [1]}'$$]) a;
CREATE TYPE color AS ENUM ('red', 'green', 'blue');
CREATE TABLE colored (id int PRIMARY KEY, state color);
SELECT a, pg_temp.refused(format('attach_table(%s)', a)) FROM unnest(ARRAY[
    $$'colored', 'state', '[{"stage": "s", "waiting": "red", "working": "green", "done": "yellow"}]'$$,
    $$'colored', 'state', '[{"stage": "s", "waiting": "red", "working": "green", "done": "blue"}]', transitions => '{"black": ["red"]}'$$]) a;
SELECT c, pg_temp.refused(c) FROM unnest(ARRAY[
    $$claim_row(NULL::good, 's')$$, $$claim_row(NULL::view, 's')$$, $$claim_row(1, 's')$$, $$finish_row('good', '1', 's')$$, $$finish_row(4294967295, '1', 's')$$, $$detach_table('good')$$]) c;
SELECT pgjobs.attach_table('good', 'state', '[{"stage": "s", "waiting": "a", "working": "b", "done": "c"}]');
SELECT c, pg_temp.refused(c) FROM unnest(ARRAY[
    $$claim_row(NULL::good, 't')$$, $$claim_row(NULL::good, NULL)$$, $$claim_row(NULL::good, 's', NULL)$$, $$claim_row(NULL::good, 's', 0)$$, $$claim_row(NULL::good, 's', 10001)$$,
    $$finish_row('good', '1', 't')$$, $$finish_row('good', 'one', 's')$$, $$finish_row(NULL, '1', 's')$$, $$finish_row('good', NULL, 's')$$,
    $$finish_row('good', '1', NULL)$$, $$finish_row('good', '1', 's', NULL)$$, $$finish_row('good', '1', 's', changed_at => now())$$, $$_reap_rows(NULL)$$]) c;
CALL pgjobs.wait_row('good', 't', '0');
CALL pgjobs.wait_row('good', 's', '-1 s');
BEGIN;
CALL pgjobs.wait_row('good', 's', '0');
ROLLBACK;
DROP VIEW view;
DROP TABLE plain, good, colored;
DROP TYPE color;
DROP FUNCTION note(), lead(), keep(), whoami();

-- Very many messages in a transaction are not kept in memory to its end; they come in order all the same.
SELECT pgjobs.create_topic('many');
CREATE TABLE many (id int PRIMARY KEY, state text);
INSERT INTO many SELECT n, 'open' FROM generate_series(1, 50000) n;
SELECT pgjobs.attach_table('many', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]', topic => 'many');
BEGIN;
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts \gset
UPDATE many SET state = 'busy';
SELECT sum(total_bytes) - :before < 10000000 AS small FROM pg_backend_memory_contexts;
COMMIT;
SELECT count(*), count(*) FILTER (WHERE key::int = n) AS in_order
FROM (SELECT l.key, row_number() OVER (ORDER BY l.position) AS n FROM pgjobs.log l JOIN pgjobs.segment s ON s.id = l.segment
    JOIN pgjobs.topic t ON t.id = s.topic_id WHERE t.name = 'many') r;
-- Those of a savepoint that is undone are not published, the others are.
BEGIN;
UPDATE many SET state = 'closed' WHERE id <= 20000;
SAVEPOINT s;
UPDATE many SET state = 'closed' WHERE id > 20000;
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM pgjobs.log l JOIN pgjobs.segment s ON s.id = l.segment JOIN pgjobs.topic t ON t.id = s.topic_id WHERE t.name = 'many';
DROP TABLE many;
SELECT pgjobs.drop_topic('many');
