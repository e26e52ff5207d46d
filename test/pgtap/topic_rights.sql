-- Who may do what with topics: as in rights.sql, every function, procedure and view x every kind of role
-- x a topic on which the role has its right and one on which it has none.
SELECT no_plan();
CREATE EXTENSION dblink;

-- ---- two tenants ----

CREATE TABLE places (topic text, token bigint, position bigint);
CREATE PROCEDURE prepare(topic text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pgjobs.create_topic(topic);
    PERFORM pgjobs.create_queue('q_' || topic);
    PERFORM pgjobs.create_queue('fed_' || topic);
    PERFORM pgjobs.subscribe('s_' || topic, topic);
    PERFORM pgjobs.subscribe('lent_' || topic, topic);
    PERFORM pgjobs.subscribe_queue('fed_' || topic, topic, 'no such key');
    PERFORM pgjobs.publish(topic, '"secret"', key => 'secret key', headers => '{"x": "secret"}');
END $$;
CALL prepare('mine');
CALL prepare('theirs');
INSERT INTO places SELECT topic, token, position FROM pgjobs.receive('lent_mine', lease => '1 hour');
INSERT INTO places SELECT topic, token, position FROM pgjobs.receive('lent_theirs', lease => '1 hour');
SELECT is((SELECT count(*) FROM places), 2::bigint, 'both are lent');

-- ---- the roles ----

-- held: rights on topic mine; all of them may produce into the queue q_mine. calls: whether EXECUTE and
-- SELECT come from elsewhere too.
CREATE TABLE roles (role name, held text[], calls boolean, admin boolean DEFAULT false, monitor boolean DEFAULT false);
INSERT INTO roles (role, held, calls)
SELECT p || r, CASE r WHEN 'nobody' THEN '{}'::text[] ELSE ARRAY[r] END, p = 'v_'
FROM unnest(ARRAY['nobody', 'publish', 'subscribe', 'monitor', 'own']) r, unnest(ARRAY['u_', 'v_']) p;
INSERT INTO roles VALUES
    ('u_all', '{publish,subscribe,monitor,own}', false, false, false),
    ('u_member', '{publish,subscribe,monitor,own}', false, false, false), -- of u_all
    ('u_noinherit', '{}', false, false, false),     -- of u_all too, but must SET ROLE
    ('u_tenant', '{}', true, false, false),         -- has everything on theirs
    ('u_attributes', '{}', false, false, false),    -- strong elsewhere, nothing here
    ('u_pgmonitor', '{}', false, false, true),      -- member of pg_monitor
    ('u_admin', '{}', true, true, false),           -- member of the extension's owner
    ('postgres', '{}', true, true, false);
SELECT format('CREATE ROLE %I', role) FROM roles WHERE role <> 'postgres' \gexec
ALTER ROLE u_noinherit NOINHERIT;
ALTER ROLE u_attributes CREATEROLE CREATEDB BYPASSRLS REPLICATION;
GRANT u_all TO u_member, u_noinherit;
GRANT pg_monitor TO u_pgmonitor;
GRANT postgres TO u_admin;
SELECT pgjobs.grant_topic('mine', role, held) FROM roles WHERE held <> '{}' AND role <> 'u_member';
SELECT pgjobs.grant_queue(q, role, '{produce}') FROM roles, unnest('{q_mine,fed_mine}'::text[]) q WHERE held <> '{}' AND role <> 'u_member';
SELECT pgjobs.grant_topic('theirs', 'u_tenant', '{publish,subscribe,monitor,own}');
SELECT pgjobs.grant_queue(q, 'u_tenant', '{produce}') FROM unnest('{q_theirs,fed_theirs}'::text[]) q;
CREATE ROLE u_produce;
SELECT pgjobs.grant_queue(q, 'u_produce', '{produce}') FROM unnest('{q_mine,fed_mine}'::text[]) q;
SELECT format('GRANT USAGE ON SCHEMA pgjobs TO %1$I; GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO %1$I; '
    'GRANT SELECT ON pgjobs.topics, pgjobs.subscriptions TO %1$I', role)
FROM roles WHERE role LIKE 'v\_%' \gexec

-- ---- the verbs ----

-- needs: any one of these rights; NULL is for administrators only, {} for whoever may call it. hidden: the
-- answer for a topic that the role may not see. The call's own order of words hides nothing: publishing
-- to a topic that is there but foreign is 42501, as with queues.
CREATE TABLE verbs (verb text, needs text[], hidden text, how text, call text);
INSERT INTO verbs VALUES
('publish', '{publish}', NULL, 'sql', $$SELECT pgjobs.publish('{topic}', '1') > 0$$),
('publish_many', '{publish}', NULL, 'sql', $$SELECT cardinality(pgjobs.publish_many('{topic}', '{1,2}')) = 2$$),
('read', '{subscribe}', NULL, 'sql', $$SELECT count(*) = 1 FROM pgjobs.read('{topic}', 0)$$),
('subscribe', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.subscribe('new', '{topic}') IS NOT NULL$$),
('unsubscribe', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.unsubscribe('s_{topic}') IS NOT NULL$$),
('receive', '{subscribe}', NULL, 'sql', $$SELECT count(*) = 1 FROM pgjobs.receive('s_{topic}')$$),
('receive lent', '{subscribe}', NULL, 'sql', $$SELECT count(*) = 0 FROM pgjobs.receive('lent_{topic}')$$),
('ack', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.ack('lent_{topic}', {token}, {position}) IS NOT NULL$$),
('seek', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.seek('s_{topic}', 0) IS NOT NULL$$),
('wait_message', '{subscribe}', NULL, 'call', $$CALL pgjobs.wait_message('s_{topic}', '0')$$),
('subscribe_queue', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.subscribe_queue('q_{topic}', '{topic}') IS NOT NULL$$),
('unsubscribe_queue', '{subscribe}', NULL, 'sql', $$SELECT pgjobs.unsubscribe_queue('fed_{topic}', '{topic}') IS NOT NULL$$),
('alter_topic', '{own}', NULL, 'sql', $$SELECT pgjobs.alter_topic('{topic}', '1 day') IS NOT NULL$$),
('drop_topic', '{own}', NULL, 'sql', $$SELECT pgjobs.drop_topic('{topic}')$$),
('grant_topic', '{own}', NULL, 'sql', $$SELECT pgjobs.grant_topic('{topic}', 'u_nobody', '{publish}') IS NOT NULL$$),
('revoke_topic', '{own}', NULL, 'sql', $$SELECT pgjobs.revoke_topic('{topic}', 'u_all', '{publish}') IS NOT NULL$$),
('create_topic', '{}', NULL, 'sql', $$SELECT pgjobs.create_topic('other') IS NOT NULL$$),
('view topics', '{monitor,subscribe,own}', 'f', 'view', $$SELECT count(last_position) = 1 FROM pgjobs.topics WHERE name = '{topic}'$$),
('view subscriptions', '{monitor,subscribe,own}', 'f', 'view', $$SELECT count(lag_messages) = 3 FROM pgjobs.subscriptions WHERE topic = '{topic}'$$),
('version', '{publish,subscribe,monitor,own}', 't', 'sql', $$SELECT pgjobs.version() <> ''$$),
('health', '{monitor,own}', NULL, 'server', $$SELECT count(*) > 0 FROM pgjobs.health()$$),
('metrics', '{monitor,own}', NULL, 'server', $$SELECT pgjobs.metrics() ~ '# EOF\n$'$$),
('_visible_topics', '{monitor,subscribe,own}', 'f', 'view', $$SELECT (SELECT place FROM ids WHERE topic = '{topic}') = ANY (pgjobs._visible_topics())$$),
('_topic_figures', '{monitor,subscribe,own}', 'f', 'view', $$SELECT last_position IS NOT NULL FROM pgjobs._topic_figures((SELECT place FROM ids WHERE topic = '{topic}'))$$),
('_lag', '{monitor,subscribe,own}', 'f', 'view', $$SELECT messages IS NOT NULL FROM pgjobs._lag((SELECT place FROM ids WHERE topic = '{topic}'), 0)$$),
('_keep_topics', NULL, NULL, 'sql', $$SELECT pgjobs._keep_topics(now()) = 0$$),
('_deliver', NULL, NULL, 'sql', $$SELECT pgjobs._deliver(now()) = 0$$),
('nextval', NULL, NULL, 'table', $$SELECT nextval('pgjobs.position_1_seq') > 0$$),
('segment', NULL, NULL, 'table', $$SELECT count(*) >= 0 FROM pgjobs.log_1$$);
CREATE TABLE ids AS SELECT t.name AS topic, t.id AS place FROM pgjobs.topic t;
GRANT SELECT ON ids TO PUBLIC;
SELECT is_empty(
    $$SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'pgjobs'::regnamespace
      AND NOT EXISTS (SELECT FROM verbs v WHERE split_part(v.verb, ' ', 1) = p.proname)
      AND p.proname ~ '(topic|message|publish|subscribe)|^(read|receive|ack|seek|_lag|_deliver)$'$$,
    'every function of topics is in the matrix');

-- ---- the cells ----

\ir answers.psql

CREATE FUNCTION expected(r roles, v verbs, topic text) RETURNS text LANGUAGE sql AS $$
    SELECT CASE
        WHEN r.admin THEN 't'
        WHEN v.needs IS NULL THEN '42501'
        -- Whatever the topic.
        WHEN v.how = 'server' THEN CASE WHEN r.monitor OR r.role = 'u_tenant' OR v.needs && r.held THEN 't' ELSE '42501' END
        WHEN v.needs = '{}' THEN CASE WHEN r.calls AND r.role <> 'u_tenant' THEN 't' ELSE '42501' END
        WHEN r.monitor AND (v.how = 'view' OR v.verb = 'version') THEN 't'
        WHEN v.needs && CASE WHEN r.role = 'u_tenant' THEN '{publish,subscribe,monitor,own}'::text[] ELSE r.held END
            AND (topic = 'theirs') = (r.role = 'u_tenant') THEN 't'
        -- From here on the role has no such right on the topic. If it may call the function at all:
        WHEN r.calls OR v.needs && r.held THEN COALESCE(v.hidden, '42501')
        ELSE '42501'
    END $$;
CREATE TABLE cells AS
SELECT r.role, v.verb, p.topic, v.how, expected(r, v, p.topic) AS wanted,
    replace(replace(replace(v.call, '{topic}', p.topic), '{token}', p.token::text), '{position}', p.position::text) AS call
FROM roles r CROSS JOIN verbs v CROSS JOIN places p;
SELECT is(CASE how WHEN 'call' THEN answer_of_call(role, call) ELSE answer(role, call) END, wanted,
    format('%s: %s on %s', role, verb, topic))
FROM cells ORDER BY role, verb, topic;
SELECT cmp_ok((SELECT count(*) FROM cells), '>=', 600::bigint, 'there are enough cells');

-- Both ends of a feed are checked.
SELECT is(answer('u_produce', $$SELECT pgjobs.subscribe_queue('q_mine', 'mine') IS NOT NULL$$), '42501', 'subscribe_queue: produce is not enough');
SELECT is(answer('u_all', $$SELECT pgjobs.subscribe_queue('q_theirs', 'mine') IS NOT NULL$$), '42501', 'nor is subscribe');
SELECT is(answer('u_all', $$SELECT pgjobs.subscribe_queue('q_mine', 'theirs') IS NOT NULL$$), '42501', 'on another topic either');
SELECT is(answer('u_produce', $$SELECT pgjobs.unsubscribe_queue('fed_mine', 'mine') IS NOT NULL$$), '42501', 'unsubscribe_queue: likewise');
-- So is the topic that takes a queue's events.
GRANT EXECUTE ON FUNCTION pgjobs.create_queue, pgjobs.alter_queue TO u_publish, u_subscribe;
SELECT is(answer('u_publish', $$SELECT pgjobs.create_queue('x', events_topic => 'mine') IS NOT NULL$$), 't', 'events_topic: with publish');
SELECT is(answer('u_subscribe', $$SELECT pgjobs.create_queue('x', events_topic => 'mine') IS NOT NULL$$), '42501', 'events_topic: without');
SELECT is(answer('u_publish', $$SELECT pgjobs.create_queue('x', events_topic => 'theirs') IS NOT NULL$$), '42501', 'events_topic: a foreign one');
SELECT pgjobs.grant_queue('q_mine', 'u_subscribe', '{own}');
SELECT is(answer('u_subscribe', $$SELECT pgjobs.alter_queue('q_mine', events_topic => 'mine') IS NOT NULL$$), '42501', 'alter_queue asks too');
-- Who changes jobs needs no right on it.
SELECT pgjobs.alter_queue('q_mine', events_topic => 'mine');
SELECT is(answer('u_produce', $$SELECT pgjobs.enqueue('q_mine') > 0$$), 't', 'events are published for everybody');
SELECT pgjobs.alter_queue('q_mine', events_topic => '');

-- ---- what is seen ----

SELECT is(answer('u_tenant', 'SELECT count(*) = 1 FROM pgjobs.topics'), 't', 'a tenant sees no other tenant''s topics');
SELECT is(answer('u_tenant', 'SELECT count(*) = 3 FROM pgjobs.subscriptions'), 't', 'nor subscriptions');
SELECT is(answer(role, $$SELECT (SELECT string_agg(to_jsonb(t)::text, ' ') FROM pgjobs.topics t) ||
    (SELECT string_agg(to_jsonb(s)::text, ' ') FROM pgjobs.subscriptions s) ~ 'secret'$$), 'f', role || ': no message is in the views')
FROM unnest('{u_monitor,u_subscribe,u_own,u_pgmonitor,postgres}'::name[]) role;
CREATE FUNCTION public.spy(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$
BEGIN
    IF $1 IN ('mine', 's_mine') THEN RAISE SQLSTATE 'ZZ000'; END IF;
    RETURN true;
END $$;
SELECT is(answer('u_tenant', 'SELECT count(*) > 0 FROM pgjobs.topics WHERE public.spy(name)'), 't', 'a cheap function in a condition sees no hidden row');
SELECT is(answer('u_tenant', 'SELECT count(*) > 0 FROM pgjobs.subscriptions WHERE public.spy(name) AND public.spy(topic)'), 't', 'nor in subscriptions');
-- ---- grant and revoke ----

CREATE ROLE u_temp;
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), '42501', 'before the grant');
SELECT pgjobs.grant_topic('mine', 'u_temp', '{publish}');
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), 't', 'after the grant, in the same session');
SELECT pgjobs.grant_topic('mine', 'u_temp', '{subscribe,subscribe}');
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), 't', 'a second grant adds to the first');
SELECT is(answer('u_temp', $$SELECT count(*) = 1 FROM pgjobs.read('mine', 0)$$), 't', 'and gives its own right');
SELECT pgjobs.revoke_topic('mine', 'u_temp', '{publish,own}');
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), '42501', 'revoked, in the same session');
SELECT is(answer('u_temp', $$SELECT count(*) = 1 FROM pgjobs.read('mine', 0)$$), 't', 'the other right stays');
SELECT pgjobs.revoke_topic('mine', 'u_temp', '{subscribe}');
SELECT is(answer('u_temp', $$SELECT count(*) = 1 FROM pgjobs.read('mine', 0)$$), '42501', 'nothing is left');
SELECT is((SELECT count(*) FROM pgjobs.topic_acl WHERE role_name = 'u_temp'), 0::bigint, 'in the table either');
BEGIN;
SELECT pgjobs.grant_topic('mine', 'u_temp', '{publish}');
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), 't', 'granted in this transaction');
ROLLBACK;
SELECT is(answer('u_temp', $$SELECT pgjobs.publish('mine', '1') > 0$$), '42501', 'which was rolled back');
-- A role that may make topics has all rights on its own, and on no other.
GRANT USAGE ON SCHEMA pgjobs TO u_temp;
GRANT EXECUTE ON FUNCTION pgjobs.create_topic TO u_temp;
SET ROLE u_temp;
SELECT pgjobs.create_topic('temps');
RESET ROLE;
SELECT is(answer('u_temp', call), wanted, 'who made a topic: ' || call) FROM (VALUES
    ($$SELECT pgjobs.publish('temps', '1') > 0$$, 't'),
    ($$SELECT count(*) = 0 FROM pgjobs.read('temps', 0)$$, 't'),
    ($$SELECT pgjobs.subscribe('tempsub', 'temps') IS NOT NULL$$, 't'),
    ($$SELECT count(*) = 1 FROM pgjobs.topics$$, 't'),
    ($$SELECT pgjobs.drop_topic('temps')$$, 't'),
    ($$SELECT pgjobs.publish('mine', '1') > 0$$, '42501')) c (call, wanted);

-- ---- who is asking ----

CREATE FUNCTION public.for_all() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$SELECT pgjobs.publish('mine', '1') > 0$$;
CREATE FUNCTION public.for_nobody() RETURNS boolean LANGUAGE sql SECURITY DEFINER AS $$SELECT pgjobs.publish('mine', '1') > 0$$;
ALTER FUNCTION public.for_all OWNER TO u_all;
ALTER FUNCTION public.for_nobody OWNER TO v_nobody;
SELECT is(answer('u_nobody', 'SELECT public.for_all()'), 't', 'a definer''s right serves its callers');
SELECT is(answer('u_all', 'SELECT public.for_nobody()'), '42501', 'a caller''s right does not serve the definer');
SELECT is(answer('u_noinherit', $$SELECT pgjobs.publish('mine', '1') > 0$$), '42501', 'NOINHERIT: not by itself');
SELECT is(answer('u_publish', $$SELECT pgjobs.publish('mine', '1') > 0 AND current_user = 'u_publish'$$), 't', 'the user is himself again');
SELECT is(answer('u_publish', $$SELECT count(*) FROM pgjobs.log WHERE pgjobs.publish('mine', '1') > 0$$), '42501', 'in the same statement too');
REVOKE u_all FROM u_member;
SELECT is(answer('u_member', $$SELECT pgjobs.publish('mine', '1') > 0$$), '42501', 'membership ended');
-- Dropped and made again: another role.
SELECT lives_ok('DROP OWNED BY u_own', 'DROP OWNED of a role with grants');
SELECT lives_ok('DROP ROLE u_own', 'and then it can be dropped');
SELECT is(answer('u_all', $$SELECT pgjobs.publish('mine', '1') > 0$$), 't', 'the others are not disturbed');
CREATE ROLE u_own;
GRANT USAGE ON SCHEMA pgjobs TO u_own;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO u_own;
SELECT is(answer('u_own', $$SELECT pgjobs.alter_topic('mine', '1 day') IS NOT NULL$$), '42501', 'a new role of the name has no right');
SELECT pgjobs.grant_topic('mine', 'u_own', '{monitor}');
SELECT is(answer('u_own', $$SELECT pgjobs.alter_topic('mine', '1 day') IS NOT NULL$$), '42501', 'a grant to it brings nothing back');

SELECT is((SELECT count(*) FROM pgjobs.log), 2::bigint, 'nothing was published by all that');

-- Roles outlive the database: leave none behind.
SELECT dblink_disconnect('caller');
DROP FUNCTION public.for_all, public.for_nobody;
SELECT format('DROP OWNED BY %1$I; DROP ROLE %1$I', rolname) FROM pg_roles WHERE rolname ~ '^[uv]_' \gexec

SELECT * FROM finish();
