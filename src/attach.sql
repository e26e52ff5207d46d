-- Your own table as a job table: attaching it, and working on its rows.

-- Since when rows are worked on, in stages where they can become stale. Not dumped: who restores a
-- copy and resumes it has it made anew.
CREATE TABLE pgjobs.working_row (
    since timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    home bigint NOT NULL,
    target oid NOT NULL,
    stage text COLLATE "C" NOT NULL,
    key text COLLATE "C",
    keys text[],
    first_key text COLLATE "C",
    last_key text COLLATE "C"
) WITH (
    vacuum_truncate = off,
    autovacuum_vacuum_scale_factor = 0.05,
    autovacuum_vacuum_threshold = 5000,
    toast.vacuum_truncate = off
);
CREATE INDEX working_row_key ON pgjobs.working_row (key, target);
CREATE INDEX working_row_due ON pgjobs.working_row (due_at);
COMMENT ON TABLE pgjobs.working_row IS
'Rows of attached tables that are being worked on, in stages with stale_after. Written by pgjobs'' triggers.';
COMMENT ON COLUMN pgjobs.working_row.since IS 'When the row came into its state.';
COMMENT ON COLUMN pgjobs.working_row.due_at IS 'When it is stale, or is to be looked at again.';
COMMENT ON COLUMN pgjobs.working_row.home IS 'The home in which the table is worked on.';
COMMENT ON COLUMN pgjobs.working_row.target IS 'The attached table.';
COMMENT ON COLUMN pgjobs.working_row.key IS 'The primary key, as finish_row takes it.';
COMMENT ON COLUMN pgjobs.working_row.stage IS 'The stage.';
COMMENT ON COLUMN pgjobs.working_row.keys IS 'In place of key: those of many rows that came in one transaction. They stay when the rows leave.';
COMMENT ON COLUMN pgjobs.working_row.first_key IS 'With keys: the least of them.';
COMMENT ON COLUMN pgjobs.working_row.last_key IS 'With keys: the greatest of them.';
COMMENT ON INDEX pgjobs.working_row_key IS 'Finds a row. Not unique, which would cost too much: the last record of a row counts.';
COMMENT ON INDEX pgjobs.working_row_due IS 'What is stale next.';

CREATE FUNCTION pgjobs._row_changed()
RETURNS trigger
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__row_changed';
COMMENT ON FUNCTION pgjobs._row_changed() IS
'Private trigger of attached tables: judges and stamps a change of the status, and notes it; at commit it wakes and announces. One of them carries the settings as its arguments.';

CREATE FUNCTION pgjobs.attach_table(
    target regclass,
    status name,
    stages jsonb,
    changed_at name DEFAULT NULL,
    token name DEFAULT NULL,
    priority name DEFAULT NULL,
    channel text DEFAULT NULL,
    topic text DEFAULT NULL,
    transitions jsonb DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_attach_table';
COMMENT ON FUNCTION pgjobs.attach_table(regclass, name, jsonb, name, name, name, text, text, jsonb) IS
'Makes a table with a primary key and a status column a job table, in place. stages: an array of objects with stage, waiting, working, done, and optionally failed and stale_after. changed_at, token, priority: columns for the time of the change, for a fence (bigint), for the order of claims. channel: where changes are announced. topic: where they are published, in the same transaction. transitions: moves that are allowed beside those of the stages, {"from": ["to", ...]}. Errors: 42501 not the owner, 42710 attached already, 42703 no such column, 42804 wrong type, 22023 bad stages, 55000 no primary key.';

CREATE FUNCTION pgjobs.detach_table(target regclass)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_detach_table';
COMMENT ON FUNCTION pgjobs.detach_table(regclass) IS
'Removes what attach_table has added: the triggers, and the index if it made one. Errors: 42501 not the owner, 55000 not attached.';

CREATE FUNCTION pgjobs.claim_row(of anyelement, stage text, max_rows bigint DEFAULT 1)
RETURNS SETOF anyelement
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_claim_row';
COMMENT ON FUNCTION pgjobs.claim_row(anyelement, text, bigint) IS
'Moves up to max_rows rows of an attached table from waiting to working and returns them, in the order of the priority column, then of the primary key. of: NULL of the table''s row type, NULL::my_table. Rows that others have are passed over. Runs as the caller. Errors: 42704 no such stage, 55000 not attached, 42501, PJ004 quarantined.';

CREATE FUNCTION pgjobs.finish_row(
    target regclass,
    key text,
    stage text,
    ok boolean DEFAULT true,
    token bigint DEFAULT NULL,
    changed_at timestamptz DEFAULT NULL)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_finish_row';
COMMENT ON FUNCTION pgjobs.finish_row(regclass, text, text, boolean, bigint, timestamptz) IS
'Moves a row from working to done, or to failed unless ok; false if it is not in the working state. key: the primary key as text; of several columns a JSON array. token, changed_at: compared with the columns of that name in attach_table; PJ001 if the row is not the caller''s any more. Errors: 42704 no such stage, 22023 bad key, 55000 not attached, 42501.';

CREATE PROCEDURE pgjobs.wait_row(
    target regclass,
    stage text,
    timeout interval,
    INOUT ready boolean DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'pgjobs_wait_row';
COMMENT ON PROCEDURE pgjobs.wait_row(regclass, text, interval, boolean) IS
'Sleeps until the stage of an attached table has a row to claim: ready is true; or until timeout: ready is false. Errors: 25001 inside a transaction block or after other work in the transaction, 42704 no such stage, 55000 not attached, PJ004 quarantined.';

CREATE FUNCTION pgjobs._reap_rows(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__reap_rows';
COMMENT ON FUNCTION pgjobs._reap_rows(timestamptz) IS
'Private duty: takes back rows of attached tables that were stale by the given time; returns how many.';

CREATE FUNCTION pgjobs._attached_tables()
RETURNS TABLE (
    target regclass,
    stage text,
    number integer,
    status_column name,
    waiting text,
    working text,
    done text,
    failed text,
    stale_after interval,
    changed_at_column name,
    token_column name,
    priority_column name,
    channel text,
    topic text,
    quarantined boolean,
    enabled boolean)
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__attached_tables';
COMMENT ON FUNCTION pgjobs._attached_tables() IS
'Private: the stages of the attached tables of which the caller may read the status, or which he may monitor.';

CREATE VIEW pgjobs.attached_tables WITH (security_barrier = true) AS
SELECT a.target, a.stage, a.number, a.status_column, a.waiting, a.working, a.done, a.failed, a.stale_after,
    a.changed_at_column, a.token_column, a.priority_column, a.channel, a.topic, a.quarantined, a.enabled
FROM pgjobs._attached_tables() a;
COMMENT ON VIEW pgjobs.attached_tables IS
'The stages of attached tables, for those who may read the table, and for pg_monitor. How many rows are in which state the table itself knows.';
COMMENT ON COLUMN pgjobs.attached_tables.target IS 'The table.';
COMMENT ON COLUMN pgjobs.attached_tables.stage IS 'Name of the stage.';
COMMENT ON COLUMN pgjobs.attached_tables.number IS 'Its place among the stages, from 1.';
COMMENT ON COLUMN pgjobs.attached_tables.status_column IS 'The column with the status.';
COMMENT ON COLUMN pgjobs.attached_tables.waiting IS 'State of rows that can be claimed.';
COMMENT ON COLUMN pgjobs.attached_tables.working IS 'State of rows that are being worked on.';
COMMENT ON COLUMN pgjobs.attached_tables.done IS 'State of rows that are done.';
COMMENT ON COLUMN pgjobs.attached_tables.failed IS 'State of rows that have failed.';
COMMENT ON COLUMN pgjobs.attached_tables.stale_after IS 'After how long in the working state a row goes back to wait; NULL: never.';
COMMENT ON COLUMN pgjobs.attached_tables.changed_at_column IS 'The column with the time of the last change.';
COMMENT ON COLUMN pgjobs.attached_tables.token_column IS 'The column with the fence.';
COMMENT ON COLUMN pgjobs.attached_tables.priority_column IS 'The column by which claims order, before the primary key.';
COMMENT ON COLUMN pgjobs.attached_tables.channel IS 'Where changes are announced.';
COMMENT ON COLUMN pgjobs.attached_tables.topic IS 'To which topic changes are published.';
COMMENT ON COLUMN pgjobs.attached_tables.quarantined IS 'The database is a copy: nothing is handed out until pgjobs.resume().';
COMMENT ON COLUMN pgjobs.attached_tables.enabled IS 'All triggers are there and fire.';
