-- Who may do what: every function, procedure and view x every kind of role x a queue on which the role
-- has its right and one on which it has none. The cells are generated from the two tables below; the
-- expected answer follows from the contract's rules in expected().
SELECT no_plan();
CREATE EXTENSION dblink;

-- ---- two tenants with jobs in every state, full of secrets ----

CREATE TABLE jobs_of (queue text, name text, id bigint, token bigint);

CREATE PROCEDURE prepare(queue text) LANGUAGE plpgsql AS $$
DECLARE
    secret CONSTANT jsonb := '{"x": "secret"}';
BEGIN
    PERFORM pgjobs.create_queue(queue, ARRAY['first', 'last']);
    INSERT INTO jobs_of SELECT queue, 'ready', pgjobs.enqueue(queue, secret, unique_key => 'secret key', headers => secret);
    INSERT INTO jobs_of SELECT queue, 'dead', pgjobs.enqueue(queue, secret, priority => -1, unique_key => 'secret 2', headers => secret);
    INSERT INTO jobs_of SELECT queue, 'done', pgjobs.enqueue(queue, secret, priority => -1, unique_key => 'secret 3', headers => secret);
    INSERT INTO jobs_of SELECT queue, 'running', pgjobs.enqueue(queue, secret, priority => -1, unique_key => 'secret 4', headers => secret);
    UPDATE jobs_of j SET token = c.token FROM pgjobs.claim(prepare.queue, 3) c WHERE j.id = c.id;
    PERFORM pgjobs.fail(j.id, j.token, 'secret error', retry => false) FROM jobs_of j WHERE j.queue = prepare.queue AND name = 'dead';
    PERFORM pgjobs.complete(j.id, j.token, secret, next_stage => 'last') FROM jobs_of j WHERE j.queue = prepare.queue AND name <> 'ready' AND name <> 'dead';
    UPDATE jobs_of j SET token = c.token FROM pgjobs.claim(prepare.queue, 2, stage => 'last') c WHERE j.id = c.id;
    PERFORM pgjobs.complete(j.id, j.token, secret) FROM jobs_of j WHERE j.queue = prepare.queue AND name = 'done';
    PERFORM pgjobs.progress(j.id, j.token, 0.5, 'secret note') FROM jobs_of j WHERE j.queue = prepare.queue AND name = 'running';
END $$;
CALL prepare('mine');
CALL prepare('theirs');

-- ---- the roles ----

-- held: rights on queue mine. calls: whether EXECUTE and SELECT come from elsewhere too, so that
-- nothing but the check inside the function is between the role and the queue.
CREATE TABLE roles (role name, held text[], calls boolean, admin boolean DEFAULT false, monitor boolean DEFAULT false);
INSERT INTO roles (role, held, calls)
SELECT 't_' || r, CASE r WHEN 'nobody' THEN '{}'::text[] ELSE ARRAY[r] END, false
FROM unnest(ARRAY['nobody', 'produce', 'work', 'operate', 'monitor', 'own']) r
UNION ALL
SELECT 'e_' || r, CASE r WHEN 'nobody' THEN '{}'::text[] ELSE ARRAY[r] END, true
FROM unnest(ARRAY['nobody', 'produce', 'work', 'operate', 'monitor', 'own']) r;
INSERT INTO roles VALUES
    ('t_all', '{produce,work,operate,monitor,own}', false, false, false),
    ('t_member', '{produce,work,operate,monitor,own}', false, false, false), -- of t_all
    ('t_noinherit', '{}', false, false, false),     -- of t_all too, but must SET ROLE
    ('t_tenant', '{}', true, false, false),         -- has everything on theirs
    ('t_attributes', '{}', false, false, false),    -- strong elsewhere, nothing here
    ('t_pgmonitor', '{}', false, false, true),      -- member of pg_monitor
    ('t_admin', '{}', true, true, false),           -- member of the extension's owner
    ('postgres', '{}', true, true, false);

SELECT format('CREATE ROLE %I', role) FROM roles WHERE role <> 'postgres' \gexec
ALTER ROLE t_noinherit NOINHERIT;
ALTER ROLE t_attributes CREATEROLE CREATEDB BYPASSRLS REPLICATION;
GRANT t_all TO t_member, t_noinherit;
GRANT pg_monitor TO t_pgmonitor;
GRANT postgres TO t_admin;
SELECT pgjobs.grant_queue('mine', role, held)
FROM roles WHERE held <> '{}' AND role <> 't_member';
SELECT pgjobs.grant_queue('theirs', 't_tenant', '{produce,work,operate,monitor,own}');
SELECT format('GRANT USAGE ON SCHEMA pgjobs TO %1$I; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO %1$I', role)
FROM roles WHERE role LIKE 'e\_%' \gexec
SELECT format('GRANT SELECT ON pgjobs.jobs, pgjobs.attempts, pgjobs.queues, pgjobs.stages, pgjobs.workers TO %I', role)
FROM roles WHERE role LIKE 'e\_%' \gexec

-- ---- the verbs ----

-- needs: any one of these rights; NULL is for administrators only, {} for whoever may call it. hidden:
-- the answer for a job or queue that the role may not see, the same as for one that is not there.
CREATE TABLE verbs (verb text, needs text[], hidden text, how text, call text);
INSERT INTO verbs VALUES
('enqueue', '{produce}', NULL, 'sql', $$SELECT pgjobs.enqueue('{queue}') > 0$$),
('enqueue keep', '{produce}', NULL, 'sql', $$SELECT pgjobs.enqueue('{queue}', unique_key => 'secret key') = {ready}$$),
('enqueue replace', '{produce}', NULL, 'sql', $$SELECT pgjobs.enqueue('{queue}', unique_key => 'secret key', on_conflict => 'replace') = {ready}$$),
('enqueue_many', '{produce}', NULL, 'sql', $$SELECT cardinality(pgjobs.enqueue_many('{queue}', ARRAY['1', '2']::jsonb[])) = 2$$),
('enqueue_batch', '{produce}', NULL, 'sql', $$SELECT cardinality(pgjobs.enqueue_batch('{queue}', '[{}]')) = 1$$),
('claim', '{work}', NULL, 'sql', $$SELECT id = {ready} FROM pgjobs.claim('{queue}')$$),
('claim hold', '{work}', NULL, 'sql', $$SELECT id = {ready} FROM pgjobs.claim('{queue}', hold => true)$$),
('wait', '{work}', NULL, 'call', $$CALL pgjobs.wait('{queue}', '0')$$),
('complete', '{work}', NULL, 'sql', $$SELECT pgjobs.complete({running}, {token}) = 'completed'$$),
('complete again', '{work}', NULL, 'sql', $$SELECT pgjobs.complete({done}, {donetoken}) = 'completed'$$),
('complete_many', '{work}', NULL, 'sql', $$SELECT pgjobs.complete_many(ARRAY[{running}]::bigint[], ARRAY[{token}]::bigint[]) = ARRAY[{running}]::bigint[]$$),
('complete_and_claim', '{work}', NULL, 'sql', $$SELECT count(*) = 1 FROM pgjobs.complete_and_claim('{queue}', ARRAY[{running}]::bigint[], ARRAY[{token}]::bigint[])$$),
('fail', '{work}', NULL, 'sql', $$SELECT pgjobs.fail({running}, {token}) = 'scheduled'$$),
('fail_many', '{work}', NULL, 'sql', $$SELECT pgjobs.fail_many(ARRAY[{running}]::bigint[], ARRAY[{token}]::bigint[]) = ARRAY[{running}]::bigint[]$$),
('release', '{work}', NULL, 'sql', $$SELECT pgjobs.release({running}, {token}) IS NOT NULL$$),
('snooze', '{work}', NULL, 'sql', $$SELECT pgjobs.snooze({running}, {token}, '1 hour') IS NOT NULL$$),
('extend', '{work}', NULL, 'sql', $$SELECT pgjobs.extend({running}, {token}) > now()$$),
('extend_many', '{work}', NULL, 'sql', $$SELECT pgjobs.extend_many(ARRAY[{running}]::bigint[], ARRAY[{token}]::bigint[]) = ARRAY[{running}]::bigint[]$$),
('progress', '{work}', NULL, 'sql', $$SELECT pgjobs.progress({running}, {token}, 1) IS NOT NULL$$),
('cancel', '{operate}', NULL, 'sql', $$SELECT pgjobs.cancel({ready})$$),
('cancel running', '{operate}', NULL, 'sql', $$SELECT pgjobs.cancel({running})$$),
('retry', '{operate}', NULL, 'sql', $$SELECT pgjobs.retry({dead})$$),
('retry completed', '{operate}', NULL, 'sql', $$SELECT pgjobs.retry({done})$$),
('redrive', '{operate}', NULL, 'sql', $$SELECT pgjobs.redrive('{queue}') = 1$$),
('reschedule', '{operate}', NULL, 'sql', $$SELECT pgjobs.reschedule({ready}, now())$$),
('reprioritize', '{operate}', NULL, 'sql', $$SELECT pgjobs.reprioritize({ready}, 1)$$),
('pause_queue', '{operate}', NULL, 'sql', $$SELECT pgjobs.pause_queue('{queue}') IS NOT NULL$$),
('resume_queue', '{operate}', NULL, 'sql', $$SELECT pgjobs.resume_queue('{queue}') IS NOT NULL$$),
('purge_queue', '{operate}', NULL, 'sql', $$SELECT pgjobs.purge_queue('{queue}') = 1$$),
('job', '{operate,monitor,own}', 'f', 'sql', $$SELECT count(id) = 1 FROM pgjobs.job({ready})$$),
('job done', '{operate,monitor,own}', 'f', 'sql', $$SELECT count(id) = 1 FROM pgjobs.job({done})$$),
('why', '{operate,monitor,own}', '42704', 'sql', $$SELECT pgjobs.why({ready}) <> ''$$),
('why done', '{operate,monitor,own}', '42704', 'sql', $$SELECT pgjobs.why({done}) <> ''$$),
('await', '{produce,operate,monitor,own}', '42704', 'call', $$CALL pgjobs.await({ready}, '0')$$),
('await done', '{produce,operate,monitor,own}', '42704', 'call', $$CALL pgjobs.await({done}, '0')$$),
('alter_queue', '{own}', NULL, 'sql', $$SELECT pgjobs.alter_queue('{queue}', max_attempts => 3) IS NOT NULL$$),
('drop_queue', '{own}', NULL, 'sql', $$SELECT pgjobs.drop_queue('{queue}', force => true)$$),
('grant_queue', '{own}', NULL, 'sql', $$SELECT pgjobs.grant_queue('{queue}', 't_nobody', '{work}') IS NOT NULL$$),
('revoke_queue', '{own}', NULL, 'sql', $$SELECT pgjobs.revoke_queue('{queue}', 't_all', '{work}') IS NOT NULL$$),
('view jobs', '{operate,monitor,own}', 'f', 'view', $$SELECT count(*) = 4 FROM pgjobs.jobs WHERE queue = '{queue}'$$),
('view attempts', '{operate,monitor,own}', 'f', 'view', $$SELECT count(*) = 5 FROM pgjobs.attempts WHERE queue = '{queue}'$$),
('view queues', '{operate,monitor,own}', 'f', 'view', $$SELECT count(*) = 1 FROM pgjobs.queues WHERE name = '{queue}'$$),
('view stages', '{operate,monitor,own}', 'f', 'view', $$SELECT count(*) = 2 FROM pgjobs.stages WHERE queue = '{queue}'$$),
('view workers', '{operate,monitor,own}', 'f', 'view', $$SELECT count(*) = 1 FROM pgjobs.workers WHERE queue = '{queue}'$$),
('create_queue', '{}', NULL, 'sql', $$SELECT pgjobs.create_queue('other') IS NOT NULL$$),
('version', '{produce,work,operate,monitor,own}', 't', 'sql', $$SELECT pgjobs.version() <> ''$$),
('health', '{operate,monitor,own}', NULL, 'server', $$SELECT count(*) > 0 FROM pgjobs.health()$$),
('metrics', '{operate,monitor,own}', NULL, 'server', $$SELECT pgjobs.metrics() ~ '# EOF\n$'$$),
('resume', NULL, NULL, 'sql', $$SELECT pgjobs.resume() IS NOT NULL$$),
('_check_leases', NULL, NULL, 'sql', $$SELECT pgjobs._check_leases() IS NOT NULL$$),
('_reap', NULL, NULL, 'sql', $$SELECT pgjobs._reap(now()) = 0$$),
('_reap_rows', NULL, NULL, 'sql', $$SELECT pgjobs._reap_rows(now()) = 0$$),
('_promote', NULL, NULL, 'sql', $$SELECT pgjobs._promote(now()) = 0$$),
('_expire', NULL, NULL, 'sql', $$SELECT pgjobs._expire(now()) = 0$$),
('_keep_history', NULL, NULL, 'sql', $$SELECT pgjobs._keep_history(now()) = 0$$),
('_rotate_receipts', NULL, NULL, 'sql', $$SELECT pgjobs._rotate_receipts(now()) IS NOT NULL$$),
('_check_frontier', NULL, NULL, 'sql', $$SELECT pgjobs._check_frontier() = 0$$),
('_require_version', NULL, NULL, 'sql', $$SELECT pgjobs._require_version(pgjobs.version()) IS NOT NULL$$),
('_recount', NULL, NULL, 'sql', $$SELECT pgjobs._recount() = 0$$),
('_reset_hints', NULL, NULL, 'sql', $$SELECT pgjobs._reset_hints() IS NOT NULL$$);
-- The tables: nobody but administrators.
INSERT INTO verbs
SELECT p || ' ' || t, NULL, NULL, 'table', CASE p
    WHEN 'SELECT' THEN format('SELECT count(*) >= 0 FROM pgjobs.%I', t)
    WHEN 'DELETE' THEN format('WITH d AS (DELETE FROM pgjobs.%I RETURNING 1) SELECT count(*) >= 0 FROM d', t) END
FROM unnest(ARRAY['queue', 'stage', 'acl', 'home', 'job', 'history', 'topic', 'topic_acl', 'segment', 'log', 'subscription', 'feed', 'working_row']) t, unnest(ARRAY['SELECT', 'DELETE']) p;
INSERT INTO verbs VALUES
('nextval', NULL, NULL, 'table', $$SELECT nextval('pgjobs.job_id_seq') > 0$$),
('setval', NULL, NULL, 'table', $$SELECT setval('pgjobs.job_id_seq', 1000000) > 0$$);

SELECT is_empty(
    $$SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace
      AND NOT EXISTS (SELECT FROM verbs v WHERE split_part(v.verb, ' ', 1) = p.proname)
      AND p.prorettype <> 'trigger'::regtype
      AND p.proname NOT IN ('_installed', '_visible_queues', '_queue_counters', '_lease_end', '_figures')
      -- own_table has these, where the rights are those on the table
      AND p.proname NOT IN ('attach_table', 'detach_table', 'claim_row', 'finish_row', 'wait_row', '_attached_tables')
      -- These are in topic_rights.sql.
      AND p.proname !~ '(topic|message|publish|subscribe)|^(read|receive|ack|seek|_lag|_deliver)$'$$,
    'every function is in the matrix');

-- ---- the cells ----

\ir answers.psql

CREATE FUNCTION expected(r roles, v verbs, queue text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN r.admin THEN 't'
        WHEN v.needs IS NULL THEN '42501'
        -- Whatever the queue.
        WHEN v.how = 'server' THEN CASE WHEN r.monitor OR r.role = 't_tenant' OR v.needs && r.held THEN 't' ELSE '42501' END
        WHEN v.needs = '{}' THEN CASE WHEN r.calls AND r.role <> 't_tenant' THEN 't' ELSE '42501' END
        WHEN r.monitor AND (v.how = 'view' OR v.verb ~ '^(version|job|why)') THEN 't'
        WHEN v.needs && CASE WHEN r.role = 't_tenant' THEN '{produce,work,operate,monitor,own}'::text[] ELSE r.held END
            AND (queue = 'theirs') = (r.role = 't_tenant') THEN 't'
        -- From here on the role has no such right on the queue. If it may call the function at all:
        WHEN r.calls OR v.needs && r.held THEN COALESCE(v.hidden, '42501')
        ELSE '42501'
    END $$;

CREATE TABLE cells AS
SELECT r.role, v.verb, q.queue, v.how, expected(r, v, q.queue) AS wanted,
    replace(replace(replace(replace(replace(replace(replace(v.call, '{queue}', q.queue),
        '{ready}', q.ready::text), '{running}', q.running::text), '{token}', q.token::text),
        '{dead}', q.dead::text), '{donetoken}', q.donetoken::text), '{done}', q.done::text) AS call
FROM roles r CROSS JOIN verbs v CROSS JOIN (
    SELECT queue, max(id) FILTER (WHERE name = 'ready') AS ready, max(id) FILTER (WHERE name = 'running') AS running,
        max(token) FILTER (WHERE name = 'running') AS token, max(id) FILTER (WHERE name = 'dead') AS dead,
        max(id) FILTER (WHERE name = 'done') AS done, max(token) FILTER (WHERE name = 'done') AS donetoken
    FROM jobs_of GROUP BY queue) q;

-- What a procedure returns does not matter, unless it is an SQLSTATE.
CREATE FUNCTION called(role name, call text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE WHEN a ~ '^[0-9A-Z]{5}$' THEN a ELSE 't' END
    FROM answer_of_call(role, call, CASE WHEN call LIKE '%.await%' THEN 'state text, result jsonb' ELSE 'ready text' END) a $$;
SELECT is(CASE how WHEN 'call' THEN called(role, call) ELSE answer(role, call) END, wanted,
    format('%s: %s on %s', role, verb, queue))
FROM cells ORDER BY role, verb, queue;

SELECT cmp_ok((SELECT count(*) FROM cells), '>=', 600::bigint, 'there are enough cells');
SELECT is((SELECT count(*) FROM pgjobs.jobs WHERE queue IN ('mine', 'theirs')), 8::bigint, 'nothing was changed by them');

-- What is hidden is hidden: the messages are those of an id and a queue that are not there.
CREATE FUNCTION message(role name, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM set_config('role', role, true);
    EXECUTE call;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(SQLSTATE || ' ' || SQLERRM || ' ' || hint, '[0-9]+ does', 'N does');
END $$;
SELECT is(message('t_tenant', format('SELECT pgjobs.why(%s)', id)), message('t_tenant', 'SELECT pgjobs.why(987654321)'),
    'why: a foreign job (' || name || ') is like one that is not there')
FROM jobs_of WHERE queue = 'mine';
SELECT is(called('t_tenant', format('CALL pgjobs.await(%s, ''0'')', id)),
    called('t_tenant', 'CALL pgjobs.await(987654321, ''0'')'), 'await: likewise (' || name || ')')
FROM jobs_of WHERE queue = 'mine';

-- ---- what is inside a job ----

-- Everything that a role gets to read of the queue mine, as one text.
CREATE FUNCTION all_seen() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(seen, ' ') FROM (
        SELECT to_jsonb(j)::text AS seen FROM pgjobs.jobs j
        UNION ALL SELECT to_jsonb(a)::text FROM pgjobs.attempts a
        UNION ALL SELECT to_jsonb(q)::text FROM pgjobs.queues q
        UNION ALL SELECT to_jsonb(s)::text FROM pgjobs.stages s
        UNION ALL SELECT to_jsonb(w)::text FROM pgjobs.workers w
        UNION ALL SELECT to_jsonb(h)::text FROM pgjobs.health() h
        UNION ALL SELECT pgjobs.metrics()) s $$;
CREATE FUNCTION details_seen() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(to_jsonb(d)::text || pgjobs.why(d.id), ' ') FROM pgjobs.jobs j, pgjobs.job(j.id) d $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO PUBLIC;

SELECT is(answer(role, 'SELECT all_seen() ~ ''secret'''), wanted, role || ': views ' || CASE wanted WHEN 't' THEN 'show' ELSE 'hide' END || ' what is inside a job')
FROM (VALUES ('t_monitor', 'f'), ('e_monitor', 'f'), ('t_pgmonitor', 'f'), ('t_operate', 't'), ('t_own', 't'),
    ('t_all', 't'), ('t_member', 't'), ('t_admin', 't'), ('postgres', 't')) r (role, wanted);
SELECT is(answer(role, 'SELECT details_seen() ~ ''secret'''), wanted, role || ': job and why ' || CASE wanted WHEN 't' THEN 'show' ELSE 'hide' END || ' what is inside a job')
FROM (VALUES ('t_monitor', 'f'), ('e_monitor', 'f'), ('t_operate', 't'), ('t_own', 't'),
    ('t_all', 't'), ('t_member', 't'), ('t_admin', 't'), ('postgres', 't')) r (role, wanted);
SELECT is(answer('t_monitor', format('SELECT count(%s) = 0 AND count(*) = 4 FROM pgjobs.jobs', c)), 't', 'monitor: no ' || c || ' in the view')
FROM unnest(ARRAY['payload', 'headers', 'result', 'error', 'group_key', 'unique_key']) c;
SELECT is(answer('t_operate', format('SELECT count(%s) > 0 FROM pgjobs.jobs', c)), 't', 'operate: ' || c || ' in the view')
FROM unnest(ARRAY['payload', 'headers', 'result', 'error', 'unique_key']) c;
SELECT is(answer('t_monitor', 'SELECT count(error) = 0 FROM pgjobs.attempts'), 't', 'monitor: no errors of attempts');
SELECT is(answer('t_monitor', format('SELECT count(%s) = 0 FROM pgjobs.jobs j, pgjobs.job(j.id) d', c)), 't', 'monitor: no ' || c || ' in job()')
FROM unnest(ARRAY['d.payload', 'd.headers', 'd.result', 'd.error', 'd.group_key', 'd.unique_key', 'd.note']) c;
-- The result that await returns: the producer's own business, but not the monitor's.
CREATE FUNCTION awaited(role name) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM dblink_exec('caller', format('SET ROLE %I', role));
    RETURN (SELECT r.state || ' ' || COALESCE(r.result::text, 'no result')
        FROM dblink('caller', format('CALL pgjobs.await(%s, ''0'')', (SELECT id FROM jobs_of WHERE queue = 'mine' AND name = 'done'))) AS r (state text, result jsonb));
END $$;
SELECT is(awaited(role), wanted, role || ': await')
FROM (VALUES ('t_produce', 'completed {"x": "secret"}'), ('t_operate', 'completed {"x": "secret"}'), ('t_own', 'completed {"x": "secret"}'),
    ('t_monitor', 'completed no result'), ('t_member', 'completed {"x": "secret"}')) r (role, wanted);
SELECT is(answer('t_tenant', 'SELECT count(*) = 0 FROM pgjobs.jobs WHERE queue <> ''theirs'''), 't', 'a tenant sees no other tenant''s jobs');
SELECT is(answer('t_tenant', 'SELECT count(*) = 1 FROM pgjobs.queues'), 't', 'nor queues');
SELECT is(answer('t_tenant', $$SELECT pgjobs.metrics() ~ 'queue="theirs"' AND pgjobs.metrics() !~ 'mine'$$), 't', 'nor figures');
-- No condition that runs on hidden rows sees them.
CREATE FUNCTION public.spy(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
    IF $1 = 'mine' THEN RAISE SQLSTATE 'ZZ000'; END IF;
    RETURN true;
END $$;
SELECT is(answer('t_tenant', 'SELECT count(*) > 0 FROM pgjobs.jobs WHERE public.spy(queue)'), 't', 'a cheap function in a condition sees no hidden row');
SELECT is(answer('t_tenant', 'SELECT count(*) > 0 FROM pgjobs.attempts WHERE public.spy(queue)'), 't', 'nor in attempts');
SELECT is(answer('t_tenant', 'SELECT count(*) > 0 FROM pgjobs.queues WHERE public.spy(name)'), 't', 'nor in queues');

-- ---- grant and revoke ----

CREATE ROLE t_temp;
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'before the grant');
SELECT pgjobs.grant_queue('mine', 't_temp', '{produce}');
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), 't', 'after the grant, in the same session');
SELECT pgjobs.grant_queue('mine', 't_temp', '{work,work}');
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), 't', 'a second grant adds to the first');
SELECT is(answer('t_temp', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), 't', 'and gives its own right');
SELECT pgjobs.revoke_queue('mine', 't_temp', '{produce}');
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'revoked, in the same session');
SELECT is(answer('t_temp', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), 't', 'the other right stays');
SELECT pgjobs.revoke_queue('mine', 't_temp', '{produce,operate}');
SELECT is(answer('t_temp', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), 't', 'revoking what was not granted changes nothing');
SELECT pgjobs.revoke_queue('mine', 't_temp', '{work}');
SELECT is(answer('t_temp', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), '42501', 'nothing is left');
SELECT throws_ok($$SELECT pgjobs.grant_queue('mine', 'no_such_role', '{work}')$$, '42704');
SELECT throws_ok($$SELECT pgjobs.grant_queue('mine', 'public', '{work}')$$, '42704');
SELECT throws_ok($$SELECT pgjobs.grant_queue('nowhere', 't_temp', '{work}')$$, '42704');
SELECT throws_ok($$SELECT pgjobs.grant_queue('mine', 't_temp', '{admin}')$$, '22023');
SELECT throws_ok($$SELECT pgjobs.grant_queue('mine', 't_temp', '{}')$$, '22023');
-- A grant in a transaction that fails is none.
BEGIN;
SELECT pgjobs.grant_queue('mine', 't_temp', '{produce}');
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), 't', 'granted in this transaction');
ROLLBACK;
SELECT is(answer('t_temp', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'which was rolled back');
-- A role that may make queues has all rights on its own, and on no other.
GRANT USAGE ON SCHEMA pgjobs TO t_temp;
GRANT EXECUTE ON FUNCTION pgjobs.create_queue TO t_temp;
SET ROLE t_temp;
SELECT pgjobs.create_queue('temps');
RESET ROLE;
SELECT is(answer('t_temp', call), wanted, 'who made a queue: ' || call) FROM (VALUES
    ($$SELECT pgjobs.enqueue('temps') > 0$$, 't'),
    ($$SELECT count(*) = 0 FROM pgjobs.claim('temps')$$, 't'),
    ($$SELECT pgjobs.purge_queue('temps') = 0$$, 't'),
    ($$SELECT count(*) = 1 FROM pgjobs.queues$$, 't'),
    ($$SELECT pgjobs.drop_queue('temps')$$, 't'),
    ($$SELECT pgjobs.enqueue('mine') > 0$$, '42501'),
    ($$SELECT pgjobs.alter_queue('temps', dead_letter => 'mine') IS NOT NULL$$, '42501'),
    ($$SELECT pgjobs.create_queue('spout', dead_letter => 'mine') IS NOT NULL$$, '42501')) c (call, wanted);

-- ---- who is asking ----

-- The effective user: the owner inside a SECURITY DEFINER function, the role after SET ROLE.
CREATE FUNCTION public.for_all() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$SELECT pgjobs.enqueue('mine') > 0$$;
CREATE FUNCTION public.for_nobody() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$SELECT pgjobs.enqueue('mine') > 0$$;
CREATE FUNCTION public.seen_by_tenant() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$SELECT count(*) = 0 FROM pgjobs.jobs WHERE queue = 'mine'$$;
ALTER FUNCTION public.for_all OWNER TO t_all;
ALTER FUNCTION public.for_nobody OWNER TO e_nobody;
ALTER FUNCTION public.seen_by_tenant OWNER TO t_tenant;
SELECT is(answer('t_nobody', 'SELECT public.for_all()'), 't', 'a definer''s right serves its callers');
SELECT is(answer('t_all', 'SELECT public.for_nobody()'), '42501', 'a caller''s right does not serve the definer');
SELECT is(answer('postgres', 'SELECT public.for_nobody()'), '42501', 'not even a superuser''s');
SELECT is(answer('t_all', 'SELECT public.seen_by_tenant()'), 't', 'views look at the effective user too');
SELECT is(answer('t_noinherit', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'NOINHERIT: not by itself');
SET SESSION AUTHORIZATION t_noinherit;
SET ROLE t_all;
SELECT pgjobs.enqueue('mine', priority => 9) > 0 AS added \gset
RESET ROLE;
RESET SESSION AUTHORIZATION;
SELECT is(:'added'::text, 't', 'NOINHERIT: after SET ROLE');
-- Nothing of the owner's rights stays behind, not after an error either.
SELECT is(answer('t_produce', $$SELECT pgjobs.enqueue('mine') > 0 AND current_user = 't_produce'$$), 't', 'the user is himself again');
SELECT is(answer('t_produce', $$SELECT count(*) FROM pgjobs.job WHERE pgjobs.enqueue('mine') > 0$$), '42501', 'in the same statement too');
CREATE FUNCTION public.after_error() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    BEGIN
        PERFORM pgjobs.enqueue('mine', stage => 'nowhere');
    EXCEPTION WHEN OTHERS THEN NULL;
    END;
    BEGIN
        PERFORM pgjobs.enqueue('mine', unique_key => 'secret key', on_conflict => 'error');
    EXCEPTION WHEN unique_violation THEN NULL;
    END;
    RETURN current_user || ' ' || current_setting('search_path');
END $$;
SELECT is(answer('t_produce', 'SELECT public.after_error()'), 't_produce ' || current_setting('search_path'), 'and after an error');
-- Membership counts from when it begins to when it ends.
REVOKE t_all FROM t_member;
SELECT is(answer('t_member', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'membership ended');
GRANT t_all TO t_member;
SELECT is(answer('t_member', $$SELECT pgjobs.enqueue('mine') > 0$$), 't', 'membership began');
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO t_member;
REVOKE t_all FROM t_member;
SELECT is(answer('t_member', $$SELECT pgjobs.enqueue('mine') > 0$$), '42501', 'membership ended: the check of the queue says so too');
REVOKE postgres FROM t_admin;
GRANT USAGE ON SCHEMA pgjobs TO t_admin;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO t_admin;
SELECT is(answer('t_admin', call), '42501', 'no administrator any more: ' || call)
FROM (VALUES ($$SELECT pgjobs.enqueue('mine') > 0$$), ('SELECT pgjobs.resume() IS NULL'), ('SELECT pgjobs._reap(now()) = 0')) c (call);

-- ---- roles come and go ----

-- Renamed: the same role.
ALTER ROLE t_work RENAME TO t_worker;
SELECT is(answer('t_worker', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), 't', 'a renamed role keeps its rights');
CREATE ROLE t_work;
GRANT USAGE ON SCHEMA pgjobs TO t_work;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO t_work;
SELECT is(answer('t_work', $$SELECT count(*) = 1 FROM pgjobs.claim('mine')$$), '42501', 'and a new one of its old name gets none');

-- Dropped and made again: another role.
SELECT throws_ok('DROP ROLE t_own', '2BP01');
SELECT lives_ok('REASSIGN OWNED BY t_own TO postgres', 'REASSIGN OWNED of a role with grants');
SELECT lives_ok('DROP OWNED BY t_own', 'DROP OWNED of a role with grants');
SELECT lives_ok('DROP ROLE t_own', 'and then it can be dropped');
SELECT is(answer('t_all', $$SELECT pgjobs.enqueue('mine') > 0$$), 't', 'the others are not disturbed');
SELECT is(answer('t_operate', $$SELECT count(*) = 1 FROM pgjobs.queues$$), 't', 'nor the views');
CREATE ROLE t_own;
GRANT USAGE ON SCHEMA pgjobs TO t_own;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO t_own;
SELECT is(answer('t_own', $$SELECT pgjobs.alter_queue('mine', max_attempts => 7) IS NOT NULL$$), '42501', 'a new role of the name has no right');
SELECT is(answer('t_own', $$SELECT cardinality(pgjobs._visible_queues('monitor')) = 0$$), 't', 'and sees nothing');
SELECT pgjobs.grant_queue('mine', 't_own', '{monitor}');
SELECT is(answer('t_own', $$SELECT pgjobs.alter_queue('mine', max_attempts => 7) IS NOT NULL$$), '42501', 'a grant to it brings nothing back');
SELECT is(answer('t_own', $$SELECT count(*) = 1 FROM pgjobs.queues$$), 't', 'but gives what it says');
-- Who made a queue can go as well.
SELECT lives_ok('DROP OWNED BY t_temp', 'DROP OWNED of who made a queue');
SELECT lives_ok('DROP ROLE t_temp', 'and DROP ROLE');
SELECT is((SELECT count(*) FROM pgjobs.queues WHERE name = 'temps'), 1::bigint, 'the queue stays');
SELECT ok(pgjobs.drop_queue('temps'), 'for the administrator');

-- Roles outlive the database: leave none behind.
SELECT dblink_disconnect('caller');
DROP FUNCTION public.for_all, public.for_nobody, public.seen_by_tenant;
SELECT format('DROP OWNED BY %1$I; DROP ROLE %1$I', rolname) FROM pg_roles WHERE rolname ~ '^[et]_' \gexec

SELECT * FROM finish();
