-- The schema that users meet is the one that the contract names, and it is closed: names, signatures,
-- comments, and who may do what right after CREATE EXTENSION.
SELECT no_plan();

CREATE TEMP VIEW members AS
SELECT d.classid, d.objid
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'pgjobs';

CREATE TEMP VIEW relations AS
SELECT c.* FROM pg_class c
WHERE c.relnamespace = 'pgjobs'::regnamespace
    AND (c.oid IN (SELECT objid FROM members WHERE classid = 'pg_class'::regclass)
        OR EXISTS (SELECT FROM pg_type t JOIN members m ON m.objid = t.oid AND m.classid = 'pg_type'::regclass
            WHERE t.typrelid = c.oid)
        OR EXISTS (SELECT FROM pg_index i JOIN members m ON m.objid = i.indrelid WHERE i.indexrelid = c.oid));

CREATE TEMP VIEW routines AS
SELECT p.* FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace;

-- Run-time objects are there too when the closed schema is looked at.
SELECT pgjobs.create_queue('q', ARRAY['first', 'second']);
SELECT pgjobs.enqueue('q') IS NOT NULL;
SELECT pgjobs.complete(id, token, next_stage => 'second') FROM pgjobs.claim('q');
SELECT pgjobs.complete(id, token) FROM pgjobs.claim('q');
SELECT pgjobs.create_topic('t');
SELECT pgjobs.publish('t', '1') > 0;

-- ---- functions and procedures ----

CREATE TEMP TABLE api (kind "char", name name, arguments text, result text);
INSERT INTO api VALUES
-- Queues
('f', 'create_queue', 'name text, stages text[] DEFAULT NULL::text[], lease interval DEFAULT ''00:05:00''::interval, max_attempts bigint DEFAULT 25, backoff interval DEFAULT ''00:00:01''::interval, backoff_max interval DEFAULT ''01:00:00''::interval, retention interval DEFAULT ''1 day''::interval, dead_retention interval DEFAULT ''7 days''::interval, notify text DEFAULT ''wakeup''::text, events_topic text DEFAULT NULL::text, dead_letter text DEFAULT NULL::text, durable_claims boolean DEFAULT false', 'void'),
('f', 'alter_queue', 'name text, stages text[] DEFAULT NULL::text[], lease interval DEFAULT NULL::interval, max_attempts bigint DEFAULT NULL::bigint, backoff interval DEFAULT NULL::interval, backoff_max interval DEFAULT NULL::interval, retention interval DEFAULT NULL::interval, dead_retention interval DEFAULT NULL::interval, notify text DEFAULT NULL::text, events_topic text DEFAULT NULL::text, dead_letter text DEFAULT NULL::text, durable_claims boolean DEFAULT NULL::boolean', 'void'),
('f', 'drop_queue', 'name text, force boolean DEFAULT false', 'boolean'),
('f', 'pause_queue', 'name text', 'void'),
('f', 'resume_queue', 'name text', 'void'),
('f', 'purge_queue', 'name text', 'bigint'),
-- Producing
('f', 'enqueue', 'queue text, payload jsonb DEFAULT ''{}''::jsonb, run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT NULL::interval, priority bigint DEFAULT 0, max_attempts bigint DEFAULT NULL::bigint, unique_key text DEFAULT NULL::text, on_conflict text DEFAULT ''keep''::text, expires_at timestamp with time zone DEFAULT NULL::timestamp with time zone, headers jsonb DEFAULT NULL::jsonb, stage text DEFAULT NULL::text', 'bigint'),
('f', 'enqueue_many', 'queue text, payloads jsonb[], run_at timestamp with time zone DEFAULT NULL::timestamp with time zone, delay interval DEFAULT NULL::interval, priority bigint DEFAULT 0, max_attempts bigint DEFAULT NULL::bigint, unique_keys text[] DEFAULT NULL::text[], on_conflict text DEFAULT ''keep''::text, headers jsonb[] DEFAULT NULL::jsonb[], stage text DEFAULT NULL::text', 'bigint[]'),
('f', 'enqueue_batch', 'queue text, jobs jsonb', 'bigint[]'),
-- Working
('f', 'claim', 'queue text, max_jobs bigint DEFAULT 1, stage text DEFAULT NULL::text, lease interval DEFAULT NULL::interval, hold boolean DEFAULT false, worker text DEFAULT NULL::text', 'SETOF pgjobs.claimed_job'),
('p', 'wait', 'IN queue text, IN timeout interval DEFAULT ''00:00:30''::interval, INOUT ready boolean DEFAULT NULL::boolean, IN stage text DEFAULT NULL::text', NULL),
('f', 'complete', 'id bigint, token bigint, result jsonb DEFAULT NULL::jsonb, next_stage text DEFAULT NULL::text', 'text'),
('f', 'complete_many', 'ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL::jsonb[], on_lost text DEFAULT ''skip''::text', 'bigint[]'),
('f', 'complete_and_claim', 'queue text, ids bigint[] DEFAULT ''{}''::bigint[], tokens bigint[] DEFAULT ''{}''::bigint[], results jsonb[] DEFAULT NULL::jsonb[], max_jobs bigint DEFAULT 1, stage text DEFAULT NULL::text, lease interval DEFAULT NULL::interval, hold boolean DEFAULT false, worker text DEFAULT NULL::text, on_lost text DEFAULT ''error''::text', 'SETOF pgjobs.claimed_job'),
('f', 'fail', 'id bigint, token bigint, error text DEFAULT NULL::text, retry boolean DEFAULT true, retry_in interval DEFAULT NULL::interval', 'text'),
('f', 'fail_many', 'ids bigint[], tokens bigint[], errors text[] DEFAULT NULL::text[], retry boolean DEFAULT true, on_lost text DEFAULT ''skip''::text', 'bigint[]'),
('f', 'release', 'id bigint, token bigint', 'void'),
('f', 'snooze', 'id bigint, token bigint, delay interval', 'void'),
('f', 'extend', 'id bigint, token bigint, lease interval DEFAULT NULL::interval', 'timestamp with time zone'),
('f', 'extend_many', 'ids bigint[], tokens bigint[], lease interval DEFAULT NULL::interval, on_lost text DEFAULT ''skip''::text', 'bigint[]'),
('f', 'progress', 'id bigint, token bigint, fraction double precision, note text DEFAULT NULL::text', 'void'),
-- Managing
('f', 'cancel', 'id bigint', 'boolean'),
('f', 'retry', 'id bigint', 'boolean'),
('f', 'redrive', 'queue text, max_jobs bigint DEFAULT NULL::bigint', 'bigint'),
('f', 'reschedule', 'id bigint, run_at timestamp with time zone', 'boolean'),
('f', 'reprioritize', 'id bigint, priority bigint', 'boolean'),
('f', 'job', 'id bigint', 'pgjobs.job_details'),
('f', 'why', 'id bigint', 'text'),
('p', 'await', 'IN id bigint, IN timeout interval, INOUT state text DEFAULT NULL::text, INOUT result jsonb DEFAULT NULL::jsonb', NULL),
-- Your own table
('f', 'attach_table', 'target regclass, status name, stages jsonb, changed_at name DEFAULT NULL::name, token name DEFAULT NULL::name, priority name DEFAULT NULL::name, channel text DEFAULT NULL::text, topic text DEFAULT NULL::text, transitions jsonb DEFAULT NULL::jsonb', 'void'),
('f', 'detach_table', 'target regclass', 'void'),
('f', 'claim_row', 'of anyelement, stage text, max_rows bigint DEFAULT 1', 'SETOF anyelement'),
('f', 'finish_row', 'target regclass, key text, stage text, ok boolean DEFAULT true, token bigint DEFAULT NULL::bigint, changed_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'boolean'),
('p', 'wait_row', 'IN target regclass, IN stage text, IN timeout interval, INOUT ready boolean DEFAULT NULL::boolean', NULL),
-- Topics
('f', 'create_topic', 'name text, retention interval DEFAULT ''7 days''::interval', 'void'),
('f', 'alter_topic', 'name text, retention interval DEFAULT NULL::interval', 'void'),
('f', 'drop_topic', 'name text', 'boolean'),
('f', 'publish', 'topic text, payload jsonb, key text DEFAULT NULL::text, headers jsonb DEFAULT NULL::jsonb', 'bigint'),
('f', 'publish_many', 'topic text, payloads jsonb[], keys text[] DEFAULT NULL::text[], headers jsonb[] DEFAULT NULL::jsonb[]', 'bigint[]'),
('f', 'read', 'topic text, after bigint, max_messages bigint DEFAULT 100', 'SETOF pgjobs.message'),
('f', 'subscribe', 'subscription text, topic text, from_position bigint DEFAULT NULL::bigint, from_time timestamp with time zone DEFAULT NULL::timestamp with time zone', 'void'),
('f', 'unsubscribe', 'subscription text', 'void'),
('f', 'receive', 'subscription text, max_messages bigint DEFAULT 100, lease interval DEFAULT ''00:01:00''::interval, token bigint DEFAULT NULL::bigint', 'SETOF pgjobs.message'),
('f', 'ack', 'subscription text, token bigint, up_to bigint', 'void'),
('f', 'seek', 'subscription text, to_position bigint DEFAULT NULL::bigint, to_time timestamp with time zone DEFAULT NULL::timestamp with time zone', 'void'),
('p', 'wait_message', 'IN subscription text, IN timeout interval, INOUT ready boolean DEFAULT NULL::boolean', NULL),
('f', 'subscribe_queue', 'queue text, topic text, key_pattern text DEFAULT NULL::text, stage text DEFAULT NULL::text', 'void'),
('f', 'unsubscribe_queue', 'queue text, topic text', 'void'),
-- Rights and the rest
('f', 'grant_topic', 'topic text, role name, privileges text[]', 'void'),
('f', 'revoke_topic', 'topic text, role name, privileges text[]', 'void'),
('f', 'grant_queue', 'queue text, role name, privileges text[]', 'void'),
('f', 'revoke_queue', 'queue text, role name, privileges text[]', 'void'),
('f', 'resume', '', 'void'),
('f', 'health', '', 'TABLE(name text, ok boolean, detail text)'),
('f', 'metrics', '', 'text'),
('f', 'version', '', 'text');

SELECT is(p.prokind, a.kind, a.name || ' is a ' || CASE a.kind WHEN 'f' THEN 'function' ELSE 'procedure' END)
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(pg_get_function_arguments(p.oid), a.arguments, a.name || ': arguments')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(pg_get_function_result(p.oid), a.result, a.name || ': result')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(p.prolang, (SELECT oid FROM pg_language WHERE lanname = 'c'), a.name || ' is C')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(p.prosrc, 'pgjobs_' || a.name, a.name || ' has the C symbol of its name')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(p.prosecdef, false, a.name || ' runs with the rights of the caller')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(p.proisstrict, false, a.name || ' is not STRICT')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT ok(p.proparallel = 'u' OR p.provolatile <> 'v', a.name || ' is PARALLEL UNSAFE unless it only reads')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;
SELECT is(p.proconfig, NULL, a.name || ' has no SET clause')
FROM api a LEFT JOIN routines p ON p.proname = a.name ORDER BY a.name;

SELECT is_empty(
    $$SELECT p.proname FROM routines p GROUP BY p.proname HAVING count(*) > 1$$,
    'nothing is overloaded');
SELECT set_eq(
    $$SELECT p.proname FROM routines p WHERE p.proname !~ '^_'$$,
    $$SELECT name FROM api$$,
    'there are no other public functions');
SELECT is_empty(
    $$SELECT p.oid::regprocedure FROM routines p
      WHERE NOT EXISTS (SELECT FROM members m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)$$,
    'every function belongs to the extension');
SELECT is_empty(
    $$SELECT p.oid::regprocedure FROM routines p, unnest(p.proargtypes) t
      WHERE t IN ('int4'::regtype, 'int2'::regtype, 'regrole'::regtype) AND p.proname !~ '^_'$$,
    'integers in signatures are bigint');

-- ---- types ----

CREATE FUNCTION columns(relation regclass) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
    FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped $$;

SELECT is(columns('pgjobs.claimed_job'),
    'id bigint, token bigint, queue text, stage text, attempt integer, max_attempts integer, payload jsonb, headers jsonb, result jsonb, group_key text, enqueued_at timestamp with time zone, lease_expires_at timestamp with time zone',
    'claimed_job');
SELECT is(columns('pgjobs.job_details'),
    'id bigint, queue text, stage text, state text, priority integer, attempt integer, max_attempts integer, payload jsonb, headers jsonb, result jsonb, error text, group_key text, unique_key text, run_at timestamp with time zone, enqueued_at timestamp with time zone, started_at timestamp with time zone, finished_at timestamp with time zone, expires_at timestamp with time zone, worker text, lease_expires_at timestamp with time zone, hold boolean, progress double precision, note text, rev integer, attempts jsonb',
    'job_details');

SELECT is(columns('pgjobs.message'),
    'position bigint, topic text, key text, payload jsonb, headers jsonb, published_at timestamp with time zone, token bigint',
    'message');

-- ---- views ----

SELECT is(columns('pgjobs.jobs'),
    'id bigint, queue text, stage text, state text, priority integer, attempt integer, max_attempts integer, payload jsonb, headers jsonb, result jsonb, error text, group_key text, unique_key text, run_at timestamp with time zone, enqueued_at timestamp with time zone, started_at timestamp with time zone, finished_at timestamp with time zone, worker text, lease_expires_at timestamp with time zone',
    'view jobs');
SELECT is(columns('pgjobs.queues'),
    'name text, stages text[], paused boolean, quarantined boolean, lease interval, max_attempts integer, backoff interval, backoff_max interval, retention interval, dead_retention interval, notify text, dead_letter text, events_topic text, durable_claims boolean, created_at timestamp with time zone, blocked bigint, scheduled bigint, ready bigint, running bigint, oldest_ready_age interval, enqueued bigint, completed bigint, dead bigint, cancelled bigint, claimed bigint',
    'view queues');
SELECT is(columns('pgjobs.stages'),
    'queue text, number integer, stage text, ready bigint, running bigint, scheduled bigint, blocked bigint, oldest_ready_age interval', 'view stages');
SELECT is(columns('pgjobs.attempts'),
    'job_id bigint, queue text, stage text, attempt integer, worker text, started_at timestamp with time zone, finished_at timestamp with time zone, outcome text, error text',
    'view attempts');
SELECT is(columns('pgjobs.workers'),
    'worker text, queue text, stage text, running bigint, oldest_started_at timestamp with time zone, next_lease_expires_at timestamp with time zone',
    'view workers');
SELECT is(columns('pgjobs.attached_tables'),
    'target regclass, stage text, number integer, status_column name, waiting text, working text, done text, failed text, stale_after interval, changed_at_column name, token_column name, priority_column name, channel text, topic text, quarantined boolean, enabled boolean',
    'view attached_tables');
SELECT is(columns('pgjobs.topics'),
    'name text, retention interval, quarantined boolean, first_position bigint, last_position bigint, first_published_at timestamp with time zone, pruned_to bigint, segments bigint, subscriptions bigint, created_at timestamp with time zone',
    'view topics');
SELECT is(columns('pgjobs.subscriptions'),
    'name text, topic text, queue text, key_pattern text, position bigint, lag_messages bigint, lag_time interval, reader text, lease_expires_at timestamp with time zone, created_at timestamp with time zone',
    'view subscriptions');
SELECT set_eq(
    $$SELECT relname FROM relations WHERE relkind = 'v'$$,
    ARRAY['jobs', 'queues', 'stages', 'attempts', 'workers', 'topics', 'subscriptions', 'attached_tables'], 'there are no other views');
SELECT is_empty(
    $$SELECT relname FROM relations WHERE relkind = 'v'
      AND NOT COALESCE(reloptions, '{}') @> ARRAY['security_barrier=true']$$,
    'every view is a security barrier');

-- ---- tables, sequences, indexes, triggers ----

SELECT set_eq(
    $$SELECT relname FROM relations WHERE relkind IN ('r', 'p')$$,
    ARRAY['queue', 'stage', 'acl', 'home', 'job', 'history',
        'receipt_0', 'receipt_1', 'receipt_2',
        'topic', 'topic_acl', 'segment', 'log', 'subscription', 'feed', 'working_row'], 'tables');
SELECT set_eq(
    $$SELECT relname FROM relations WHERE relkind = 'S'$$,
    ARRAY['queue_id_seq', 'job_id_seq', 'topic_id_seq', 'segment_id_seq', 'subscription_id_seq', 'feed_id_seq'], 'sequences');
SELECT set_eq(
    $$SELECT relname FROM relations WHERE relkind IN ('i', 'I')$$,
    ARRAY['queue_pkey', 'queue_name_key', 'stage_pkey', 'stage_name_key', 'acl_pkey', 'home_pkey',
        'job_pkey', 'job_due', 'job_scheduled', 'job_expires', 'job_unique_key',
        'receipt_0_last_id', 'receipt_1_last_id', 'receipt_2_last_id',
        'topic_pkey', 'topic_name_key', 'topic_acl_pkey', 'segment_pkey', 'subscription_pkey', 'subscription_name_key',
        'feed_pkey', 'feed_queue_key', 'working_row_key', 'working_row_due'],
    'indexes');
-- Where rows come and go: no VACUUM takes ACCESS EXCLUSIVE to shorten a table, and new versions have room beside old ones.
-- Partitions that are made at run time have a star for what tells them apart.
SELECT set_eq(
    $$SELECT DISTINCT regexp_replace(c.relname, '(history|log)_\d+$', '\1_*') AS name, array_to_string(c.reloptions, ' ') AS own, array_to_string(t.reloptions, ' ') AS toast
      FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
      WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind = 'r'
          AND c.relname NOT IN ('acl', 'home', 'queue', 'segment', 'stage', 'topic', 'topic_acl')$$,
    $$VALUES ('job', 'fillfactor=40 toast_tuple_target=256 vacuum_truncate=off autovacuum_vacuum_scale_factor=0.05 autovacuum_vacuum_threshold=5000',
            'vacuum_truncate=off'),
        ('history_*', 'vacuum_truncate=off', 'vacuum_truncate=off'),
        ('log_*', 'vacuum_truncate=off autovacuum_vacuum_insert_threshold=-1', 'vacuum_truncate=off autovacuum_vacuum_insert_threshold=-1'),
        ('receipt_0', 'vacuum_truncate=off', NULL), ('receipt_1', 'vacuum_truncate=off', NULL), ('receipt_2', 'vacuum_truncate=off', NULL),
        ('working_row', 'vacuum_truncate=off autovacuum_vacuum_scale_factor=0.05 autovacuum_vacuum_threshold=5000', 'vacuum_truncate=off'),
        ('subscription', 'fillfactor=50 vacuum_truncate=off', NULL), ('feed', 'fillfactor=50 vacuum_truncate=off', NULL)$$,
    'options of tables');
SELECT is((SELECT indpred IS NOT NULL FROM pg_index WHERE indexrelid = 'pgjobs.job_due'::regclass), true,
    'the index of due jobs is partial');
SELECT is_empty(
    $$SELECT i.indexrelid::regclass, a.attname FROM pg_index i
      JOIN pg_attribute a ON a.attrelid = i.indrelid
      WHERE i.indrelid = 'pgjobs.job'::regclass
        AND a.attname IN ('token', 'lease_expires_at', 'attempt', 'started_at', 'worker', 'rev', 'hold_epoch', 'hold_session', 'fraction', 'note')
        AND (a.attnum = ANY (i.indkey) OR pg_get_expr(i.indpred, i.indrelid) ~ ('\m' || a.attname || '\M'))$$,
    'no index of jobs has a column that a claim or a heartbeat writes');
SELECT is((SELECT relkind FROM pg_class WHERE oid = 'pgjobs.history'::regclass), 'p', 'history is partitioned');
SELECT is((SELECT relkind FROM pg_class WHERE oid = 'pgjobs.log'::regclass), 'p', 'and so is the log');
SELECT is_empty(
    $$SELECT conname FROM pg_constraint WHERE contype = 'f' AND connamespace = 'pgjobs'::regnamespace$$,
    'there are no foreign keys');
SELECT is_empty(
    $$SELECT a.attrelid::regclass, a.attname FROM pg_attribute a JOIN relations r ON r.oid = a.attrelid
      WHERE r.relkind IN ('r', 'p') AND a.atttypid IN ('regproc'::regtype, 'regprocedure'::regtype,
        'regoper'::regtype, 'regoperator'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regnamespace'::regtype)$$,
    'no column has a type that pg_upgrade refuses');

SELECT set_eq(
    $$SELECT t.tgrelid::regclass || ' ' || t.tgname FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal$$,
    ARRAY['pgjobs.queue changed', 'pgjobs.stage changed', 'pgjobs.acl changed', 'pgjobs.home changed',
        'pgjobs.job changing', 'pgjobs.job changed', 'pgjobs.job truncated',
        'pgjobs.topic changed', 'pgjobs.topic_acl changed', 'pgjobs.segment changed'],
    'triggers');
SELECT is(t.tgenabled, 'A', t.tgrelid::regclass || '.' || t.tgname || ' is ENABLE ALWAYS')
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal ORDER BY t.tgrelid, t.tgname;
-- tgtype: 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate.
SELECT is((SELECT tgtype::integer FROM pg_trigger WHERE tgrelid = 'pgjobs.job'::regclass AND tgname = 'changed'), 1 | 4 | 8 | 16,
    'the trigger of jobs sees every row of every statement, afterwards');

-- ---- comments ----

SELECT isnt(obj_description('pgjobs'::regnamespace, 'pg_namespace'), NULL, 'the schema has a comment');
SELECT isnt((SELECT obj_description(oid, 'pg_extension') FROM pg_extension WHERE extname = 'pgjobs'), NULL, 'the extension has a comment');
SELECT isnt(obj_description(oid, 'pg_class'), NULL, relname || ' has a comment')
FROM relations WHERE relkind <> 'c' ORDER BY relkind, relname;
SELECT isnt(obj_description(t.oid, 'pg_type'), NULL, 'type ' || t.typname || ' has a comment')
FROM pg_type t JOIN relations r ON r.oid = t.typrelid WHERE r.relkind = 'c' ORDER BY t.typname;
SELECT isnt(col_description(a.attrelid, a.attnum), NULL, r.relname || '.' || a.attname || ' has a comment')
FROM relations r JOIN pg_attribute a ON a.attrelid = r.oid
WHERE r.relkind IN ('r', 'p', 'v', 'c') AND a.attnum > 0 AND NOT a.attisdropped ORDER BY r.relname, a.attnum;
SELECT isnt(obj_description(oid, 'pg_proc'), NULL, proname || ' has a comment')
FROM routines ORDER BY proname;
SELECT isnt(obj_description(t.oid, 'pg_trigger'), NULL, r.relname || '.' || t.tgname || ' has a comment')
FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal ORDER BY r.relname, t.tgname;
SELECT isnt(obj_description(c.oid, 'pg_constraint'), NULL, 'constraint ' || c.conname || ' has a comment')
FROM pg_constraint c JOIN relations r ON r.oid = c.conrelid
WHERE c.contype <> 'n' -- 18 lists NOT NULL there too
ORDER BY c.conname;

-- ---- the catalog gate (failures S-2) ----

SELECT is_empty(
    $$SELECT p.oid::regprocedure FROM routines p, aclexplode(COALESCE(p.proacl, acldefault('f', p.proowner))) a
      WHERE a.grantee = 0$$,
    'no function may be called by PUBLIC');
SELECT is_empty(
    $$SELECT p.oid::regprocedure FROM routines p WHERE p.prosecdef$$,
    'no function is SECURITY DEFINER');
SELECT is_empty(
    $$SELECT p.oid::regprocedure FROM routines p JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname <> 'c'$$,
    'every function is C');
SELECT is_empty(
    $$SELECT c.relname, a.grantee::regrole, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
      WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind <> 'v' AND a.grantee <> c.relowner$$,
    'nobody has a right on a table or sequence, run-time partitions included');
SELECT is_empty(
    $$SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
      WHERE c.relnamespace = 'pgjobs'::regnamespace AND a.attacl IS NOT NULL$$,
    'nobody has a right on a column');
SELECT is_empty(
    $$SELECT c.relname FROM pg_class c, aclexplode(c.relacl) a
      WHERE c.relnamespace = 'pgjobs'::regnamespace AND a.grantee = 0$$,
    'PUBLIC has nothing on relations');
SELECT is_empty(
    $$SELECT n.nspname FROM pg_namespace n, aclexplode(COALESCE(n.nspacl, acldefault('n', n.nspowner))) a
      WHERE n.nspname = 'pgjobs' AND a.grantee = 0$$,
    'PUBLIC has nothing on the schema');
SELECT is_empty(
    $$SELECT t.typname FROM pg_type t, aclexplode(COALESCE(t.typacl, acldefault('T', t.typowner))) a
      WHERE t.typnamespace = 'pgjobs'::regnamespace AND t.oid IN (SELECT objid FROM members WHERE classid = 'pg_type'::regclass)
        AND EXISTS (SELECT FROM relations r WHERE r.oid = t.typrelid AND r.relkind = 'c') AND a.grantee = 0$$,
    'PUBLIC has nothing on types');
SELECT results_eq(
    $$SELECT DISTINCT a.grantee::regrole::text COLLATE "C", a.privilege_type COLLATE "C" FROM pg_class c, aclexplode(c.relacl) a
      WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind = 'v' AND a.grantee <> c.relowner$$,
    $$VALUES ('pg_monitor'::text COLLATE "C", 'SELECT'::text COLLATE "C")$$,
    'views: pg_monitor may read them, nobody else');
SELECT set_eq(
    $$SELECT p.proname FROM routines p, aclexplode(p.proacl) a WHERE a.grantee <> p.proowner AND a.grantee = 'pg_monitor'::regrole$$,
    ARRAY['_visible_queues', '_queue_counters', '_lease_end', '_figures', 'version', 'job', 'why', 'health', 'metrics',
        '_visible_topics', '_topic_figures', '_lag', '_attached_tables'],
    'pg_monitor may call what the views need, and look at jobs');
SELECT is_empty(
    $$SELECT defaclrole::regrole, defaclobjtype FROM pg_default_acl WHERE defaclnamespace = 'pgjobs'::regnamespace$$,
    'no default privileges in the schema');
SELECT is_empty(
    $$SELECT o.oid::regoperator FROM pg_operator o WHERE o.oprnamespace = 'pgjobs'::regnamespace$$,
    'no operators');
SELECT is_empty(
    $$SELECT c.castsource::regtype, c.casttarget::regtype FROM pg_cast c JOIN members m ON m.objid = c.oid AND m.classid = 'pg_cast'::regclass$$,
    'no casts');
SELECT is_empty(
    $$SELECT evtname FROM pg_event_trigger$$, 'no event triggers');

-- ---- dump and members ----

SELECT set_eq(
    $$SELECT c.oid::regclass::text FROM pg_extension e, unnest(e.extconfig) c (oid) WHERE e.extname = 'pgjobs'$$,
    ARRAY['pgjobs.queue', 'pgjobs.stage', 'pgjobs.acl', 'pgjobs.job', 'pgjobs.queue_id_seq', 'pgjobs.job_id_seq',
        'pgjobs.topic', 'pgjobs.topic_acl', 'pgjobs.segment', 'pgjobs.subscription', 'pgjobs.feed',
        'pgjobs.topic_id_seq', 'pgjobs.segment_id_seq', 'pgjobs.subscription_id_seq', 'pgjobs.feed_id_seq'],
    'a dump takes tables and sequences, but not home; history and log are dumped by their partitions');
SELECT is_empty(
    $$SELECT 1 FROM pg_extension e, unnest(e.extcondition) c WHERE e.extname = 'pgjobs' AND c <> ''$$,
    'and every row of them');
SELECT cmp_ok((SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgjobs.history'::regclass), '>', 0::bigint,
    'there are partitions');
SELECT is_empty(
    $$SELECT i.inhrelid::regclass FROM pg_inherits i JOIN members m ON m.objid = i.inhrelid
      WHERE i.inhparent IN ('pgjobs.history'::regclass, 'pgjobs.log'::regclass)$$,
    'and none belongs to the extension');
SELECT is((SELECT count(*) FROM pgjobs.history), 1::bigint, 'the finished job is in one of them');
SELECT is_empty(
    $$SELECT i.inhrelid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = i.inhparent
      WHERE i.inhparent IN ('pgjobs.history'::regclass, 'pgjobs.log'::regclass) AND c.relowner <> p.relowner$$,
    'partitions have the owner of their table');
SELECT is((SELECT count(*) FROM pg_inherits WHERE inhparent = 'pgjobs.log'::regclass), 1::bigint, 'a topic has a segment');
SELECT is((SELECT count(*) FROM pgjobs.log), 1::bigint, 'the message is in it');
SELECT is((SELECT relowner FROM pg_class WHERE oid = 'pgjobs.position_1_seq'::regclass), (SELECT relowner FROM pg_class WHERE oid = 'pgjobs.log'::regclass),
    'so has the sequence of a topic''s positions');
SELECT is((SELECT count(*) FROM members WHERE objid = 'pgjobs.position_1_seq'::regclass), 0::bigint, 'which does not belong to the extension either');
SELECT is((SELECT refobjid::regclass::text || ' ' || deptype::text FROM pg_depend WHERE classid = 'pg_class'::regclass
    AND objid = 'pgjobs.position_1_seq'::regclass AND refclassid = 'pg_class'::regclass), 'pgjobs.log a', 'but goes with its table');
SELECT is((SELECT extrelocatable FROM pg_extension WHERE extname = 'pgjobs'), false, 'the schema is fixed');
SELECT is((SELECT superuser AND NOT trusted AND NOT relocatable FROM pg_available_extension_versions WHERE name = 'pgjobs' AND installed), true,
    'only a superuser installs it');

SELECT is((SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'pgjobs'), 'pg_catalog',
    'no schema of a user''s takes the extension along when it is dropped');
SELECT * FROM finish();
