-- Nothing that somebody else has made is ever called by pgjobs (failures S-1). An attacker shadows every
-- function, operator, type and catalog that a query could name, in a schema of his own, in public and
-- among the temporary objects; then everything is installed and called, and his log must stay empty.
SELECT no_plan();

-- What pgjobs itself is made of: he knows the names, and shadows them, too.
CREATE TABLE ours AS
    SELECT 'relation' AS kind, c.relname::text AS name, NULL::text AS arguments, NULL::text AS result
    FROM pg_class c WHERE c.relnamespace = 'pgjobs'::regnamespace AND c.relkind IN ('r', 'p', 'v')
    UNION ALL SELECT 'type', t.typname, NULL, NULL FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typnamespace = 'pgjobs'::regnamespace AND c.relkind = 'c'
    UNION ALL SELECT 'function', p.proname, oidvectortypes(p.proargtypes),
        CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || CASE WHEN r.typtype IN ('p', 'c') THEN 'text' ELSE format_type(r.oid, NULL) END
    FROM pg_proc p JOIN pg_type r ON r.oid = p.prorettype WHERE p.pronamespace = 'pgjobs'::regnamespace AND p.prokind = 'f';

-- The tools of the test stay out of his reach: pg_temp is searched first unless it is named.
CREATE SCHEMA tap;
ALTER EXTENSION pgtap SET SCHEMA tap;
SET search_path = pg_catalog, tap, pg_temp;
CREATE EXTENSION dblink SCHEMA tap;
DROP EXTENSION pgjobs;
ALTER TABLE public.ours SET SCHEMA tap;
GRANT USAGE ON SCHEMA tap TO PUBLIC;
GRANT SELECT ON tap.ours TO PUBLIC;

CREATE ROLE h_attacker;
CREATE ROLE h_client;
SELECT format('GRANT CREATE ON DATABASE %I TO h_attacker', current_database()) \gexec
GRANT CREATE, USAGE ON SCHEMA public TO h_attacker;

-- ---- a squatted schema ----

SET ROLE h_attacker;
CREATE SCHEMA pgjobs;
RESET ROLE;
SELECT throws_ok('CREATE EXTENSION pgjobs', '42P06', NULL, 'a schema pgjobs that is there already stops the installation');
SELECT is((SELECT count(*) FROM pg_extension WHERE extname = 'pgjobs'), 0::bigint, 'and nothing is left of it');
SELECT is((SELECT count(*) FROM pg_class WHERE relnamespace = 'pgjobs'::regnamespace), 0::bigint, 'in the schema either');
-- With something of his in it, which an installation that replaces or adopts would take over.
SET ROLE h_attacker;
CREATE TABLE pgjobs.job (id bigint);
CREATE TYPE pgjobs.claimed_job AS (id bigint);
CREATE FUNCTION pgjobs.version() RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$;
RESET ROLE;
SELECT throws_ok('CREATE EXTENSION pgjobs', '42P06', NULL, 'a table, a type and a function in it, neither');
SELECT is((SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_extension'::regclass AND objid = 'pgjobs.version'::regproc), 0::bigint, 'nothing is adopted');
DROP SCHEMA pgjobs CASCADE;
SET ROLE h_attacker;
CREATE SCHEMA pgjobs;
RESET ROLE;
SELECT throws_ok('CREATE EXTENSION pgjobs SCHEMA public', NULL, NULL, 'nor can it be installed elsewhere');
DROP SCHEMA pgjobs;

-- ---- the traps ----

SET ROLE h_attacker;
CREATE SCHEMA evil;
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE TABLE evil.caught (who name, what text);
GRANT ALL ON evil.caught TO PUBLIC;
CREATE FUNCTION evil.trap(what text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO evil.caught VALUES (current_user, what);
    RETURN true;
END $$;

-- A function that only tells; what cannot be shadowed that way (internal arguments) no query can call.
CREATE FUNCTION evil.shadow_function(place text, name text, arguments text, result text, what text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE FUNCTION %I.%I(%s) RETURNS %s LANGUAGE plpgsql AS $f$ BEGIN PERFORM evil.trap(%L); %s END $f$',
        place, name, arguments, result, what, CASE WHEN result ~ '^SETOF' THEN 'RETURN;' ELSE 'RETURN NULL;' END);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;
CREATE FUNCTION evil.shadow_operator(place text, name text, l text, r text, result text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    trap text := 'op_' || md5(name || l || r);
BEGIN
    IF NOT evil.shadow_function(place, trap, concat_ws(', ', l, r), result, format('operator %s (%s, %s)', name, l, r)) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE OPERATOR %I.%s (FUNCTION = %I.%I, %s)', place, name, place, trap,
        concat_ws(', ', 'LEFTARG = ' || l, 'RIGHTARG = ' || r));
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;

CREATE FUNCTION evil.shadow_aggregate(place text, name text, arguments text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    step text := 'step_' || md5(name || arguments);
BEGIN
    IF NOT evil.shadow_function(place, step, concat_ws(', ', 'bigint', NULLIF(arguments, '')), 'bigint', format('aggregate %s(%s)', name, arguments)) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE AGGREGATE %I.%I(%s) (SFUNC = %I.%I, STYPE = bigint)', place, name, CASE arguments WHEN '' THEN '*' ELSE arguments END, place, step);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;
CREATE FUNCTION evil.shadow_type(place text, name text, base text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE DOMAIN %I.%I AS %s CHECK (evil.trap(%L))', place, name, base, 'type ' || name);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;
CREATE FUNCTION evil.shadow_relation(place text, name text, query text) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE VIEW %I.%I AS %s WHERE evil.trap(%L)', place, name, query, 'view ' || name);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    RETURN false;
END $$;

CREATE FUNCTION evil.shadow_everything(place text, OUT functions bigint, OUT operators bigint, OUT aggregates bigint, OUT types bigint, OUT relations bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT count(*) FILTER (WHERE evil.shadow_function(place, p.proname, oidvectortypes(p.proargtypes),
        CASE WHEN p.proretset THEN 'SETOF ' ELSE '' END || CASE WHEN r.typtype = 'p' AND r.typname !~ '^any' THEN 'text' ELSE format_type(r.oid, NULL) END,
        'function ' || p.oid::regprocedure))
    INTO functions
    FROM pg_proc p JOIN pg_type r ON r.oid = p.prorettype
    WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f';
    SELECT count(*) FILTER (WHERE evil.shadow_operator(place, o.oprname, CASE WHEN o.oprleft <> 0 THEN format_type(o.oprleft, NULL) END,
        format_type(o.oprright, NULL), format_type(o.oprresult, NULL)))
    INTO operators
    FROM pg_operator o WHERE o.oprnamespace = 'pg_catalog'::regnamespace;
    -- And those that would fit better than any of the server's.
    SELECT operators + count(*) FILTER (WHERE evil.shadow_operator(place, o, l, r, CASE WHEN o IN ('+', '-', '||', '&', '|') THEN l ELSE 'boolean' END))
    INTO operators
    FROM unnest('{=,<>,<,>,<=,>=,+,-,||,&,|}'::text[]) o,
        unnest('{smallint,integer,bigint,oid,text,name,"timestamp with time zone",interval,jsonb,boolean,numeric,"double precision"}'::text[]) l,
        unnest('{smallint,integer,bigint,oid,text,name,"timestamp with time zone",interval,jsonb,boolean,numeric,"double precision"}'::text[]) r
    WHERE NOT EXISTS (SELECT FROM pg_operator x WHERE x.oprnamespace = 'pg_catalog'::regnamespace AND x.oprname = o
        AND x.oprleft = l::regtype AND x.oprright = r::regtype);
    -- Our own functions.
    SELECT functions + count(*) FILTER (WHERE evil.shadow_function(place, o.name, o.arguments, o.result, 'our function ' || o.name))
    INTO functions FROM tap.ours o WHERE o.kind = 'function';
    -- Aggregates; for those of any type, of some.
    SELECT count(*) FILTER (WHERE evil.shadow_aggregate(place, a.name, a.arguments)) INTO aggregates FROM (
        SELECT p.proname AS name, oidvectortypes(p.proargtypes) AS arguments
        FROM pg_proc p JOIN pg_aggregate g ON g.aggfnoid = p.oid WHERE p.pronamespace = 'pg_catalog'::regnamespace AND g.aggkind = 'n'
        UNION SELECT p.proname, t FROM pg_proc p JOIN pg_aggregate g ON g.aggfnoid = p.oid,
            unnest('{smallint,integer,bigint,text,name,oid,"timestamp with time zone",interval,jsonb,boolean}'::text[]) t
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND g.aggkind = 'n' AND p.pronargs = 1 AND oidvectortypes(p.proargtypes) ~ '^"?any') a;
    -- Types: the server's, by each of their names, and ours.
    SELECT count(*) FILTER (WHERE evil.shadow_type(place, t.name, t.base)) INTO types FROM (
        SELECT typname::text AS name, format('pg_catalog.%I', typname) AS base FROM pg_type
        WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typname !~ '^_'
        UNION ALL SELECT o.name, 'pg_catalog.text' FROM tap.ours o WHERE o.kind = 'type') t;
    -- Catalogs and the server's views, and our tables and views.
    SELECT count(*) FILTER (WHERE evil.shadow_relation(place, c.name, c.query)) INTO relations FROM (
        SELECT relname::text AS name, format('SELECT c.* FROM pg_catalog.%I c', relname) AS query FROM pg_class
        WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')
        UNION ALL SELECT o.name, 'SELECT 1 AS id FROM pg_catalog.pg_class' FROM tap.ours o WHERE o.kind = 'relation') c;
END $$;

SELECT * FROM evil.shadow_everything('evil') \gset evil_
SELECT * FROM evil.shadow_everything('public') \gset public_
-- Casts, from and to a type of his own.
CREATE TYPE evil.thing AS (x text);
CREATE FUNCTION evil.to_thing(text) RETURNS evil.thing LANGUAGE plpgsql AS $$BEGIN PERFORM evil.trap('cast'); RETURN NULL; END$$;
CREATE FUNCTION evil.from_thing(evil.thing) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM evil.trap('cast'); RETURN NULL; END$$;
CREATE CAST (text AS evil.thing) WITH FUNCTION evil.to_thing AS IMPLICIT;
CREATE CAST (evil.thing AS text) WITH FUNCTION evil.from_thing AS IMPLICIT;
-- Temporary objects of this very session.
SELECT format('CREATE TEMP VIEW %1$I AS SELECT * FROM evil.%1$I', c.relname)
FROM pg_catalog.pg_class c WHERE c.relnamespace = 'evil'::regnamespace AND c.relkind = 'v' \gexec
SELECT format('CREATE DOMAIN pg_temp.%1$I AS evil.%1$I', t.typname)
FROM pg_catalog.pg_type t WHERE t.typnamespace = 'evil'::regnamespace AND t.typtype = 'd' \gexec
RESET ROLE;

SELECT cmp_ok(:evil_functions, '>', 2400, 'functions are shadowed');
SELECT cmp_ok(:evil_operators, '>', 1000, 'operators are shadowed');
SELECT cmp_ok(:evil_aggregates, '>', 100, 'aggregates are shadowed');
SELECT cmp_ok(:evil_types, '>', 60, 'types are shadowed');
SELECT cmp_ok(:evil_relations, '>', 130, 'relations are shadowed');
SELECT cmp_ok(:public_functions, '>', 2400, 'functions in public too');
SELECT diag(format('in each schema: %s functions, %s operators, %s aggregates, %s types, %s relations',
    :evil_functions, :evil_operators, :evil_aggregates, :evil_types, :evil_relations));

-- ---- the traps work ----

CREATE FUNCTION tap.traps() RETURNS text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT COALESCE(string_agg(DISTINCT what, '; '), 'none') FROM evil.caught $$;
CREATE FUNCTION tap.run(call text, path text, role text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'SET ROLE ' OPERATOR(pg_catalog.||) role;
    PERFORM pg_catalog.set_config('search_path', path, false);
    EXECUTE call;
    SET search_path = pg_catalog, tap, pg_temp;
    RESET ROLE;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) SQLERRM;
END $$;

SELECT tap.run(call, 'evil, public, pg_catalog', 'postgres') FROM unnest(ARRAY['SELECT now()', 'SELECT 1 = 1', 'SELECT count(*)',
    'SELECT min(1::bigint)', 'SELECT count(*) FROM pg_class', 'SELECT ''x''::text', 'SELECT NULL::timestamptz']) call;
SELECT is((SELECT count(DISTINCT what) FROM evil.caught), 7::bigint, 'each of these falls into a trap: ' || tap.traps());
TRUNCATE evil.caught;
SELECT tap.run('SELECT true = 1::smallint', 'public', 'postgres');
SELECT is((SELECT count(*) FROM evil.caught), 1::bigint, 'with the usual search_path too, where his operator fits better');
TRUNCATE evil.caught;

-- ---- installation ----

SET search_path = evil, public, pg_catalog;
CREATE EXTENSION pgjobs;
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(tap.traps(), 'none', 'CREATE EXTENSION, with his schema in front');
DROP EXTENSION pgjobs;
SET search_path = public;
CREATE EXTENSION pgjobs;
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(tap.traps(), 'none', 'CREATE EXTENSION, with the usual search_path');
SELECT is(tap.run('ALTER EXTENSION pgjobs UPDATE', 'evil, public, pg_catalog', 'postgres'), 'done', 'ALTER EXTENSION UPDATE');
-- Every update that there is, from where it begins.
SELECT format('DROP EXTENSION pgjobs; SET search_path = evil, public, pg_catalog; CREATE EXTENSION pgjobs VERSION %L; ALTER EXTENSION pgjobs UPDATE TO %L; '
    'SET search_path = pg_catalog, tap, pg_temp; SELECT is(tap.traps(), ''none'', %L)', source, target, 'update ' || path)
FROM pg_extension_update_paths('pgjobs') WHERE path IS NOT NULL \gexec
SELECT is((SELECT count(*) FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid WHERE d.refclassid = 'pg_proc'::regclass
    AND p.pronamespace IN ('evil'::regnamespace, 'public'::regnamespace)
    AND d.classid = 'pg_rewrite'::regclass AND d.objid IN (SELECT r.oid FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        WHERE c.relnamespace = 'pgjobs'::regnamespace)), 0::bigint, 'no view of ours depends on a function of his');
SELECT is((SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_type t ON t.oid = a.atttypid
    WHERE c.relnamespace = 'pgjobs'::regnamespace AND a.attnum > 0 AND t.typnamespace NOT IN ('pg_catalog'::regnamespace, 'pgjobs'::regnamespace)), 0::bigint,
    'no column has a type of his');

-- ---- every function and view ----

-- In order; each is one statement without an operator or function of its own.
CREATE TABLE tap.calls (place serial, call text, admin boolean DEFAULT false);
INSERT INTO tap.calls (call, admin) VALUES
($$SELECT pgjobs.create_queue('letters')$$, true),
($$SELECT pgjobs.create_queue('q', '{first,second}', lease => '1 minute', backoff => '1 day', backoff_max => '2 days', notify => 'events', dead_letter => 'letters')$$, true),
($$SELECT pgjobs.create_queue('forgetful', retention => '0', dead_retention => '400 days')$$, true),
($$SELECT pgjobs.grant_queue('q', 'h_client', '{produce,work,operate,monitor,own}')$$, true),
($$SELECT pgjobs.grant_queue('letters', 'h_client', '{produce,work,operate,monitor,own}')$$, true),
($$SELECT pgjobs.create_topic('t', '1 day'), pgjobs.create_topic('events')$$, true),
($$SELECT pgjobs.grant_topic('t', 'h_client', '{publish,subscribe,monitor,own}'), pgjobs.grant_topic('events', 'h_client', '{publish,subscribe,monitor,own}')$$, true);
INSERT INTO tap.calls (call) VALUES
($$SELECT pgjobs.version()$$),
($$SELECT pgjobs.alter_queue('q', stages => '{first,second,third}', lease => '2 minutes', max_attempts => 5, retention => '2 days', dead_letter => '')$$),
($$SELECT pgjobs.alter_queue('q', dead_letter => 'letters', events_topic => 'events')$$),
($$SELECT pgjobs.subscribe('s', 't'), pgjobs.subscribe('early', 't', from_time => '2001-01-01 00:00+00'), pgjobs.subscribe('first', 't', from_position => 0)$$),
($$SELECT pgjobs.subscribe_queue('letters', 't', 'a%')$$),
($$SELECT pgjobs.publish('t', '{"a": [1, "x"]}', 'abc', '{"h": 1}')$$),
($$SELECT pgjobs.publish_many('t', '{1,2,3}', '{a,NULL,c}', '{"{}",NULL,"{}"}')$$),
($$SELECT r.* FROM pgjobs.read('t', 0) r$$),
($$SELECT pgjobs.ack('s', r.token, r.position), pgjobs.ack('s', r.token, r.position) FROM pgjobs.receive('s', 2) r$$),
($$SELECT pgjobs.seek('s', 0), pgjobs.seek('s', to_time => '2001-01-01 00:00+00')$$),
($$SELECT r.* FROM pgjobs.receive('s', 10, '1 hour') r$$),
($$SELECT t.* FROM pgjobs.topics t$$),
($$SELECT s.* FROM pgjobs.subscriptions s$$),
($$SELECT pgjobs.grant_topic('t', 'h_attacker', '{publish,subscribe}')$$),
($$SELECT pgjobs.revoke_topic('t', 'h_attacker', '{publish,subscribe}')$$),
($$SELECT pgjobs.alter_topic('t', '1 second')$$),
($$SELECT pgjobs.enqueue('q', '{"a": [1, "x"]}', headers => '{"h": 1}')$$),
($$SELECT pgjobs.enqueue('q', delay => '1 hour', unique_key => 'k')$$),
($$SELECT pgjobs.enqueue('q', run_at => '2100-01-01 00:00+00', unique_key => 'k', on_conflict => 'replace')$$),
($$SELECT pgjobs.enqueue('q', unique_key => 'k')$$),
($$SELECT pgjobs.enqueue('q', expires_at => '2100-01-01 00:00+00', priority => 7, max_attempts => 2, stage => 'second')$$),
($$SELECT pgjobs.enqueue_many('q', '{1,2,3}', unique_keys => '{a,NULL,c}', headers => '{"{}",NULL,"{}"}')$$),
($$SELECT pgjobs.enqueue_batch('q', '[{}, {"payload": 1, "run_at": "2001-01-01 00:00+00", "priority": 3}, {"delay": "1 s", "max_attempts": 3, "unique_key": "z", "on_conflict": "replace", "headers": {"x": 1}, "stage": "third"}]')$$),
($$SELECT c.* FROM pgjobs.claim('q', worker => 'w') c$$),
($$SELECT pgjobs.complete(c.id, c.token, '{"r": 1}') FROM pgjobs.claim('q') c$$),
($$SELECT pgjobs.complete(c.id, c.token, next_stage => 'third'), pgjobs.complete(c.id, c.token) FROM pgjobs.claim('q', stage => 'first') c$$),
($$SELECT pgjobs.complete(c.id, c.token, '1'), pgjobs.complete(c.id, c.token) FROM pgjobs.claim('q', stage => 'third') c$$),
($$SELECT pgjobs.complete_many(ARRAY[c.id], ARRAY[c.token], '{1}') FROM pgjobs.claim('q') c$$),
($$SELECT count(*) FROM pgjobs.complete_and_claim('letters')$$),
($$SELECT pgjobs.extend(c.id, c.token), pgjobs.extend_many(ARRAY[c.id], ARRAY[c.token], '1 hour'), pgjobs.progress(c.id, c.token, 0.5, 'n'), pgjobs.release(c.id, c.token) FROM pgjobs.claim('q') c$$),
($$SELECT pgjobs.snooze(c.id, c.token, '1 hour') FROM pgjobs.claim('q') c$$),
($$SELECT pgjobs.fail(c.id, c.token, 'e', retry_in => '1 hour') FROM pgjobs.claim('q', hold => true) c$$),
($$SELECT pgjobs.fail(c.id, c.token, 'e', retry => false), pgjobs.why(c.id), pgjobs.retry(c.id), pgjobs.reprioritize(c.id, 3), pgjobs.reschedule(c.id, '2100-01-01'), pgjobs.why(c.id), pgjobs.cancel(c.id), pgjobs.why(c.id) FROM pgjobs.claim('q', 2) c$$),
($$SELECT pgjobs.enqueue_many('q', '{4,5,6,7,8,9}')$$),
($$SELECT pgjobs.fail_many(ARRAY[c.id], ARRAY[c.token], '{e}', retry => false) FROM pgjobs.claim('q', 3) c$$),
($$SELECT pgjobs.redrive('q', 2)$$),
($$SELECT d.*, pgjobs.why(c.id) FROM pgjobs.claim('q', 2) c, pgjobs.job(c.id) d$$),
($$SELECT pgjobs.pause_queue('q')$$),
($$SELECT pgjobs.resume_queue('q')$$),
($$SELECT j.* FROM pgjobs.jobs j$$),
($$SELECT a.* FROM pgjobs.attempts a$$),
($$SELECT s.* FROM pgjobs.stages s$$),
($$SELECT v.* FROM pgjobs.queues v$$),
($$SELECT w.* FROM pgjobs.workers w$$),
($$SELECT h.* FROM pgjobs.health() h$$),
($$SELECT pgjobs.metrics()$$),
($$SELECT pgjobs.grant_queue('q', 'h_attacker', '{produce}')$$),
($$SELECT pgjobs.revoke_queue('q', 'h_attacker', '{produce}')$$);
INSERT INTO tap.calls (call, admin) VALUES
($$CREATE TABLE tap.runs (id pg_catalog.int8 PRIMARY KEY, state pg_catalog.text, at pg_catalog.timestamptz, fence pg_catalog.int8, sort pg_catalog.text)$$, true),
($$SELECT pgjobs.attach_table('tap.runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]', changed_at => 'at', token => 'fence', priority => 'sort', channel => 'told')$$, true),
($$INSERT INTO tap.runs VALUES (1, 'open', NULL, NULL, 'a'), (2, 'open', NULL, NULL, 'b'), (3, 'open', NULL, NULL, 'c')$$, true),
($$SELECT r.id, pgjobs.finish_row('tap.runs', r.id::pg_catalog.text, 's', token => r.fence, changed_at => r.at) FROM pgjobs.claim_row(NULL::tap.runs, 's', 2) r$$, true),
($$SELECT r.id FROM pgjobs.claim_row(NULL::tap.runs, 's') r$$, true),
($$SELECT pgjobs._reap_rows('2101-01-01')$$, true),
($$SELECT t.* FROM pgjobs.attached_tables t$$, true),
($$SELECT pgjobs.detach_table('tap.runs')$$, true),
($$DROP TABLE tap.runs$$, true),
($$SELECT pgjobs.enqueue('forgetful')$$, true),
($$SELECT pgjobs.complete(c.id, c.token), pgjobs.complete(c.id, c.token) FROM pgjobs.claim('forgetful') c$$, true),
($$UPDATE pgjobs.job SET note = 'by hand'$$, true),
($$SELECT pgjobs._reap('2101-01-01')$$, true),
($$SELECT pgjobs._promote('2101-01-01')$$, true),
($$SELECT pgjobs._expire('2101-01-01')$$, true),
($$SELECT pgjobs._keep_history('2001-01-01')$$, true),
($$SELECT pgjobs._rotate_receipts('2001-01-01')$$, true),
($$SELECT pgjobs._deliver('2101-01-01')$$, true),
($$SELECT pgjobs._keep_topics('2101-01-01'), pgjobs._keep_topics('2102-01-01')$$, true),
($$SELECT pgjobs._visible_topics(), pgjobs._topic_figures(1), pgjobs._lag(1, 0)$$, true),
($$SELECT pgjobs._check_frontier()$$, true),
($$SELECT pgjobs._recount()$$, true),
($$SELECT pgjobs._require_version(pgjobs.version())$$, true),
($$SELECT pgjobs._reset_hints()$$, true),
($$SELECT v.*, s.* FROM pgjobs.queues v, pgjobs.stages s$$, true),
($$SELECT pgjobs._visible_queues('monitor'), pgjobs._queue_counters(1), pgjobs._figures(1), pgjobs._lease_end(1, pg_catalog.now())$$, true),
($$DELETE FROM pgjobs.home$$, true),
($$SELECT pgjobs.resume()$$, true);
INSERT INTO tap.calls (call) VALUES
($$SELECT pgjobs.unsubscribe('s'), pgjobs.unsubscribe('early'), pgjobs.unsubscribe('first')$$),
($$SELECT pgjobs.unsubscribe_queue('letters', 't')$$),
($$SELECT pgjobs.purge_queue('q')$$),
($$SELECT pgjobs.drop_queue('q', force => true)$$),
($$SELECT pgjobs.drop_topic('t'), pgjobs.drop_topic('events')$$);
INSERT INTO tap.calls (call, admin) VALUES
($$DELETE FROM pgjobs.job$$, true),
($$TRUNCATE pgjobs.job$$, true),
($$SELECT pgjobs.drop_queue('letters', force => true), pgjobs.drop_queue('forgetful', force => true)$$, true);

SELECT is((SELECT count(*) FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace AND p.prokind = 'f' AND p.proname !~ '^_'
    AND NOT EXISTS (SELECT FROM tap.calls c WHERE strpos(c.call, 'pgjobs.' || p.proname || '(') > 0)), 0::bigint, 'every function is called');

-- An administrator with the attacker in front, and with the usual path; then a client who is as hostile,
-- and who would have the functions run as the owner of the extension.
SELECT is(tap.run(call, 'evil, public, pg_catalog', 'postgres'), 'done', 'administrator, evil: ' || call) FROM tap.calls ORDER BY place;
SELECT is(tap.traps(), 'none', 'no trap was met');
SELECT is(tap.run(call, 'public', 'postgres'), 'done', 'administrator, public: ' || call) FROM tap.calls ORDER BY place;
SELECT is(tap.traps(), 'none', 'no trap was met');
SELECT is(tap.run(call, 'pg_temp, evil, public, pg_catalog', CASE WHEN admin THEN 'postgres' ELSE 'h_client' END), 'done', 'client, pg_temp: ' || call)
FROM tap.calls ORDER BY place;
SELECT is(tap.traps(), 'none', 'no trap was met');

-- Settings that change how queries are read and values are written.
SET transform_null_equals = on;
SET standard_conforming_strings = off;
SET escape_string_warning = off;
SET quote_all_identifiers = on;
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET timezone = 'Asia/Kathmandu';
SET extra_float_digits = -15;
SET bytea_output = 'escape';
SET array_nulls = on;
SET enable_indexscan = off;
SET plan_cache_mode = force_generic_plan;
SET row_security = off;
SELECT is(tap.run(call, 'evil, public, pg_catalog', CASE WHEN admin THEN 'postgres' ELSE 'h_client' END), 'done', 'client with strange settings: ' || call)
FROM tap.calls ORDER BY place;
RESET ALL;
SET client_min_messages = warning;
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(tap.traps(), 'none', 'no trap was met');

-- ---- procedures and the background worker ----

SELECT pgjobs.create_queue('q', notify => 'events');
SELECT pgjobs.enqueue('q', unique_key => 'later', delay => '20 ms') AS id \gset
SET search_path = evil, public, pg_catalog;
CALL pgjobs.wait('q', '30 s') \gset wait_
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(:'wait_ready'::text, 't', 'the worker made the job ready');
SELECT count(*) FROM pgjobs.claim('q', lease => '10 ms');
SET search_path = evil, public, pg_catalog;
CALL pgjobs.wait('q', '30 s') \gset wait_
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(:'wait_ready'::text, 't', 'and took it back from a dead one');
SELECT pgjobs.complete(id, token, '"done"') FROM pgjobs.claim('q');
SET search_path = evil, public, pg_catalog;
CALL pgjobs.await(:id, '30 s') \gset await_
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(:'await_state'::text, 'completed', 'await');
SELECT pgjobs.create_topic('t', '1 second');
SELECT pgjobs.alter_queue('q', events_topic => 't');
SELECT pgjobs.subscribe_queue('q', 't', '%a%');
SELECT pgjobs.subscribe('s', 't', from_position => 0);
SELECT pgjobs.publish('t', '"message"', 'an a');
SET search_path = evil, public, pg_catalog;
CALL pgjobs.wait_message('s', '30 s') \gset message_
CALL pgjobs.wait('q', '30 s') \gset wait_
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(:'message_ready'::text, 't', 'wait_message');
SELECT is(:'wait_ready'::text, 't', 'and the worker made a job of the message');
SELECT is(tap.traps(), 'none', 'no trap was met by the procedures and the worker');

-- The owner of a database can give every session of it a search_path, those of the worker and of the process
-- that takes stale rows back included: processes that begin now begin with it.
SELECT format('ALTER DATABASE %I SET search_path = evil, public, pg_catalog', current_database()) \gexec
ALTER ROLE h_client LOGIN;
ALTER ROLE h_client SET search_path = evil, public, pg_catalog;
CREATE FUNCTION tap.worker() RETURNS integer LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT pid FROM pg_stat_activity WHERE backend_type = 'pgjobs worker' AND datname = current_database() $$;
SELECT tap.worker() AS worker \gset
SELECT pg_terminate_backend(:worker, 10000) AS gone \gset
CREATE TABLE tap.stale (id bigint PRIMARY KEY, state text);
ALTER TABLE tap.stale OWNER TO h_client;
SELECT pgjobs.attach_table('tap.stale', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 second"}]');
INSERT INTO tap.stale VALUES (1, 'busy'), (2, 'busy');
SELECT count(*) FROM pgjobs.claim('q', lease => '10 ms');
SELECT pgjobs.enqueue('q', delay => '20 ms'), pgjobs.enqueue('q', expires_at => clock_timestamp() + interval '20 ms'), pgjobs.publish('t', '1', 'another a');
CREATE PROCEDURE tap.wait_for(condition text) LANGUAGE plpgsql AS $$
DECLARE
    met boolean := false;
    until timestamptz := clock_timestamp() + interval '60 s';
BEGIN
    SET search_path = pg_catalog, tap, pg_temp;
    WHILE NOT met AND clock_timestamp() < until LOOP
        EXECUTE 'SELECT ' || condition INTO met;
        COMMIT;
        PERFORM pg_stat_clear_snapshot(), pg_sleep(0.02);
    END LOOP;
END $$;
CALL tap.wait_for('(SELECT count(*) FROM tap.stale WHERE state = ''open'') = 2');
SELECT is((SELECT count(*) FROM tap.stale WHERE state = 'open'), 2::bigint, 'stale rows are taken back');
CALL tap.wait_for('(SELECT count(*) FROM pgjobs.jobs WHERE state IN (''scheduled'', ''running'')) = 0');
SELECT is((SELECT count(*) FROM pgjobs.jobs WHERE state IN ('scheduled', 'running')), 0::bigint, 'leases are reaped, delays are over');
SELECT isnt(tap.worker(), :worker, 'by another worker');
SELECT is(tap.traps(), 'none', 'no trap was met by processes that begin with his search_path');
SELECT pgjobs.detach_table('tap.stale');
DROP TABLE tap.stale;
SET search_path = evil, public, pg_catalog;
DROP EXTENSION pgjobs;
SET search_path = pg_catalog, tap, pg_temp;
SELECT is(tap.traps(), 'none', 'nor by DROP EXTENSION');

SELECT * FROM finish();

-- What he made stays: it is too much for the lock table of one transaction, and the cluster of the suite
-- is thrown away.
