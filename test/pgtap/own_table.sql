-- Who may do what with an attached table: the rights are those on the table, and EXECUTE on the functions.
CREATE EXTENSION IF NOT EXISTS dblink;
SELECT no_plan();

CREATE ROLE o_owner;
CREATE ROLE o_nothing;   -- may call, and has no right on the table
CREATE ROLE o_public;    -- may not even call
CREATE ROLE o_select;
CREATE ROLE o_update;    -- without SELECT
CREATE ROLE o_column;    -- some columns
CREATE ROLE o_worker;    -- SELECT and UPDATE
CREATE ROLE o_member;    -- of the owner
CREATE ROLE o_distant NOINHERIT; -- of the owner, but must SET ROLE
CREATE ROLE o_monitor;
GRANT o_owner TO o_member, o_distant;
GRANT pg_monitor TO o_monitor;
SELECT format('GRANT USAGE ON SCHEMA pgjobs TO %1$I;
    GRANT EXECUTE ON ROUTINE pgjobs.attach_table, pgjobs.detach_table, pgjobs.claim_row, pgjobs.finish_row, pgjobs.wait_row, pgjobs._attached_tables TO %1$I;
    GRANT SELECT ON pgjobs.attached_tables TO %1$I', r)
FROM unnest(ARRAY['o_owner', 'o_nothing', 'o_select', 'o_update', 'o_column', 'o_worker', 'o_member', 'o_distant', 'o_monitor']) r \gexec

CREATE TABLE runs (id int PRIMARY KEY, state text, secret text);
ALTER TABLE runs OWNER TO o_owner;
GRANT SELECT ON runs TO o_select, o_worker;
GRANT UPDATE ON runs TO o_update, o_worker;
GRANT SELECT (id, state), UPDATE (state) ON runs TO o_column;
CREATE TABLE other (id int PRIMARY KEY, state text);
ALTER TABLE other OWNER TO o_owner;
SELECT pgjobs.attach_table('runs', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed", "stale_after": "1 hour"}]');
INSERT INTO runs VALUES (1, 'open', 'x'), (2, 'busy', 'x');

\ir answers.psql

CREATE TABLE verbs (verb text, call text, allowed name[], answer text, others text);
INSERT INTO verbs VALUES
('attach_table', $$SELECT pgjobs.attach_table('other', 'state', '[{"stage": "s", "waiting": "open", "working": "busy", "done": "closed"}]')::text = ''$$,
    '{postgres,o_owner,o_member}', 't', '42501'),
('detach_table', $$SELECT pgjobs.detach_table('runs')::text = ''$$, '{postgres,o_owner,o_member}', 't', '42501'),
('claim_row', $$SELECT id FROM pgjobs.claim_row(NULL::runs, 's')$$, '{postgres,o_owner,o_member,o_worker}', '1', '42501'),
('finish_row', $$SELECT pgjobs.finish_row('runs', '2', 's')$$, '{postgres,o_owner,o_member,o_worker,o_column}', 't', '42501'),
('attached_tables', $$SELECT count(*) FROM pgjobs.attached_tables$$, '{postgres,o_owner,o_member,o_worker,o_select,o_monitor}', '1', '0'),
('_reap_rows', $$SELECT pgjobs._reap_rows(now() + interval '2 hours')$$, '{postgres}', '1', '42501'),
('records', $$SELECT count(*) FROM pgjobs.working_row$$, '{postgres}', '1', '42501'),
('the trigger', $$SELECT pgjobs._row_changed()$$, '{}', NULL, '42501'),
('a trigger', $$CREATE TRIGGER mine AFTER INSERT ON other FOR EACH ROW EXECUTE FUNCTION pgjobs._row_changed()$$, '{postgres}', NULL, '42501');

SELECT is(answer(r.rolname, v.call),
    CASE WHEN r.rolname = ANY (v.allowed) THEN v.answer WHEN r.rolname = 'o_public' THEN '42501' ELSE v.others END,
    format('%s: %s', r.rolname, v.verb))
FROM verbs v, pg_roles r
WHERE (r.rolname LIKE 'o\_%' OR r.rolname = 'postgres')
    AND NOT (v.verb IN ('the trigger', 'a trigger') AND r.rolname = 'postgres')
ORDER BY v.verb, r.rolname;
SELECT is(answer_of_call(r.rolname, $$CALL pgjobs.wait_row('runs', 's', '0')$$),
    CASE WHEN r.rolname IN ('o_owner', 'o_select', 'o_worker', 'o_member', 'postgres') THEN 't' ELSE '42501' END,
    r.rolname || ': wait_row')
FROM pg_roles r WHERE r.rolname LIKE 'o\_%' OR r.rolname = 'postgres' ORDER BY r.rolname;

-- A plain statement needs no right on anything of pgjobs.
SELECT is(answer('o_column', $$UPDATE runs SET state = 'busy' WHERE id = 1 RETURNING state$$), 'busy', 'a plain UPDATE');
SELECT is(answer('o_column', $$UPDATE runs SET state = 'closed' WHERE id = 1 RETURNING state$$), 'PJ003', 'that is not allowed');

-- In a function of somebody else's, his rights count.
CREATE FUNCTION claim_for() RETURNS SETOF runs LANGUAGE sql SECURITY DEFINER AS $$ SELECT * FROM pgjobs.claim_row(NULL::runs, 's') $$;
ALTER FUNCTION claim_for() OWNER TO o_worker;
SELECT is(answer('o_nothing', 'SELECT id FROM claim_for()'), '1', 'a SECURITY DEFINER function claims with the rights of its owner');

-- Row security counts in every verb, for each caller anew.
ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
SELECT is(answer('o_worker', 'SELECT id FROM pgjobs.claim_row(NULL::runs, $$s$$)'), 'no row', 'without a policy nothing is claimed');
SELECT is(answer('o_worker', 'SELECT pgjobs.finish_row($$runs$$, $$2$$, $$s$$)'), 'f', 'nor finished');
SELECT is(answer('o_owner', 'SELECT id FROM pgjobs.claim_row(NULL::runs, $$s$$)'), '1', 'the owner is above it');
SELECT is(answer_of_call('o_worker', $$CALL pgjobs.wait_row('runs', 's', '0')$$), 'f', 'nobody waits for what he cannot claim');

-- EXECUTE alone lets nobody look into tables of others by the messages.
SELECT is(answer('o_nothing', 'SELECT pgjobs.finish_row($$runs$$, $$2$$, $$s$$, token => 1)'), '22023', 'no column for the token');
SELECT is(answer('o_nothing', 'SELECT pgjobs.finish_row($$runs$$, $$99$$, $$s$$)'), answer('o_nothing', 'SELECT pgjobs.finish_row($$runs$$, $$2$$, $$s$$)'),
    'a row that is there is like one that is not');

-- What attach_table has made belongs to the owner of the table.
SELECT is((SELECT DISTINCT relowner::regrole::text FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE i.indrelid = 'runs'::regclass), 'o_owner', 'the index');
SELECT * FROM finish();
