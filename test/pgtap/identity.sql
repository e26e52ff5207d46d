-- Whose rights count (failures S-4): those of the effective user, at the moment of the call, whatever the
-- session's user is, and whatever has become of the roles since. Of the owners of attached tables:
-- test/tap/040_identity.pl.
SELECT no_plan();

CREATE ROLE i_producer LOGIN;
CREATE ROLE i_nobody LOGIN;
CREATE ROLE i_boss LOGIN SUPERUSER;
CREATE ROLE i_group;
SELECT pgjobs.create_queue('q');
SELECT pgjobs.grant_queue('q', 'i_producer', '{produce}');
SELECT pgjobs.grant_queue('q', 'i_group', '{work}');
GRANT USAGE ON SCHEMA pgjobs TO i_nobody;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO i_nobody;
\ir answers.psql

-- ---- the effective user ----

CREATE FUNCTION as_definer(call text) RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE result text; BEGIN EXECUTE call INTO result; RETURN result; END $$;
CREATE FUNCTION as_invoker(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE result text; BEGIN EXECUTE call INTO result; RETURN result; END $$;
CREATE PROCEDURE enqueue_by_call() LANGUAGE sql AS $$ SELECT pgjobs.enqueue('q') $$;
ALTER FUNCTION as_definer OWNER TO i_producer;
SELECT is(answer('i_nobody', $$SELECT pgjobs.enqueue('q') > 0$$), '42501', 'EXECUTE alone is not enough');
SELECT is(answer('i_nobody', $$SELECT as_definer('SELECT pgjobs.enqueue(''q'') > 0')$$), 't', 'in a SECURITY DEFINER function its owner counts');
SELECT is(answer('i_nobody', $$SELECT as_invoker('SELECT pgjobs.enqueue(''q'') > 0')$$), '42501', 'in another one the caller');
ALTER FUNCTION as_definer OWNER TO i_nobody;
SELECT is(answer('i_producer', $$SELECT as_definer('SELECT pgjobs.enqueue(''q'') > 0')$$), '42501', 'also where the caller could and the owner cannot');
SELECT is(answer('postgres', $$SELECT as_definer('SELECT pgjobs.enqueue(''q'') > 0')$$), '42501', 'and a superuser does not lend his rights');
SELECT is(answer('postgres', $$SELECT as_definer('SELECT pgjobs.resume() IS NULL')$$), '42501', 'not for what administrators may, either');
SELECT is(answer('postgres', $$SELECT as_definer('SELECT pgjobs._reap(''infinity''::timestamptz - interval ''1 day'') IS NULL')$$), '42501', 'nor for duties');
SELECT is(answer('i_nobody', 'SELECT as_definer(''SELECT count(*) FROM pgjobs.job'')'), '42501', 'the tables are nobody''s');

-- A prepared statement and a plan that is kept are as good as who executes them.
SET SESSION AUTHORIZATION i_producer;
PREPARE add AS SELECT pgjobs.enqueue('q') > 0;
EXECUTE add;
RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION i_nobody;
SELECT throws_ok('EXECUTE add', '42501', NULL, 'a prepared statement of another role''s');
-- Whoever the session is, a role that was set is checked, and RESET brings the old one back.
RESET SESSION AUTHORIZATION;
SET ROLE i_nobody;
SELECT throws_ok($$SELECT pgjobs.enqueue('q')$$, '42501', NULL, 'SET ROLE to less');
RESET ROLE;
SELECT lives_ok($$SELECT pgjobs.enqueue('q')$$, 'RESET ROLE');
-- The privileged section ends with the statement, also by an error inside it.
SET ROLE i_producer;
SELECT throws_ok($$SELECT pgjobs.enqueue('q', unique_key => 'k', on_conflict => 'error'), pgjobs.enqueue('q', unique_key => 'k', on_conflict => 'error')$$,
    '23505', NULL, 'an error inside the privileged section');
SELECT is(current_user::text, 'i_producer', 'leaves the user as he was');
SELECT throws_ok('SELECT count(*) FROM pgjobs.job', '42501', NULL, 'with the rights he had');
SELECT is(current_setting('search_path'), '"$user", public', 'and the search_path');
RESET ROLE;
DELETE FROM pgjobs.job;

-- ---- roles that change ----

SELECT is(answer('i_nobody', $$SELECT count(*) >= 0 FROM pgjobs.claim('q')$$), '42501', 'before the membership');
GRANT i_group TO i_nobody;
SELECT is(answer('i_nobody', $$SELECT count(*) >= 0 FROM pgjobs.claim('q')$$), 't', 'a member, in the same session');
ALTER ROLE i_nobody NOINHERIT;
REVOKE i_group FROM i_nobody; -- from 16 on, how a membership inherits is its own
GRANT i_group TO i_nobody;
SELECT is(answer('i_nobody', $$SELECT count(*) >= 0 FROM pgjobs.claim('q')$$), '42501', 'who does not inherit');
REVOKE i_group FROM i_nobody;
ALTER ROLE i_nobody INHERIT;
SELECT is(answer('i_nobody', $$SELECT count(*) >= 0 FROM pgjobs.claim('q')$$), '42501', 'not a member any more');
SELECT is(answer('i_boss', $$SELECT pgjobs.enqueue('q') > 0$$), 't', 'a superuser');
ALTER ROLE i_boss NOSUPERUSER;
SELECT is(answer('i_boss', $$SELECT pgjobs.enqueue('q') > 0$$), '42501', 'who is none any more');
ALTER ROLE i_producer RENAME TO i_renamed;
CREATE ROLE i_producer;
SELECT is(answer('i_renamed', $$SELECT pgjobs.enqueue('q') > 0$$), 't', 'a right goes with its role');
SELECT is(answer('i_producer', $$SELECT pgjobs.enqueue('q') > 0$$), '42501', 'and not to another one of the old name');
DROP ROLE i_producer;
ALTER ROLE i_renamed RENAME TO i_producer;
-- What a role has been given stands in the way of dropping it, as with every function.
SELECT throws_ok('DROP ROLE i_producer', '2BP01');
ALTER FUNCTION as_definer OWNER TO postgres;
DROP OWNED BY i_producer;
DROP ROLE i_producer;
CREATE ROLE i_producer;
GRANT USAGE ON SCHEMA pgjobs TO i_producer;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA pgjobs TO i_producer;
SELECT is(answer('i_producer', $$SELECT pgjobs.enqueue('q') > 0$$), '42501', 'dropped and made anew: nothing is left');
SELECT pgjobs.grant_queue('q', 'i_nobody', '{work}');
SELECT is((SELECT count(*) FROM pgjobs.acl a WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.role)), 0::bigint,
    'and the next grant sweeps up what was left');
-- In a copy, where an oid may be another role's, the name counts too.
UPDATE pgjobs.acl SET role_name = 'somebody else' WHERE role = 'i_nobody'::regrole;
UPDATE pgjobs.queue SET home = home + 1 WHERE name = 'q';
SELECT is(answer('i_nobody', $$SELECT pgjobs.claim('q')$$), '42501', 'quarantined: another role''s oid is no right');
UPDATE pgjobs.acl SET role_name = 'i_nobody' WHERE role = 'i_nobody'::regrole;
SELECT is(answer('i_nobody', $$SELECT pgjobs.claim('q')$$), 'PJ004', 'with its name it is');
SELECT pgjobs.resume();
SELECT is(answer('i_nobody', $$SELECT count(*) >= 0 FROM pgjobs.claim('q')$$), 't', 'and resume() keeps it');

SELECT * FROM finish();
