-- Waiting: procedures that sleep in the server until there is something to do. They hold no snapshot
-- while they wait, and refuse (25001) to commit anybody's work.

CREATE PROCEDURE pgjobs.wait(
    queue text,
    timeout interval DEFAULT '30 seconds',
    INOUT ready boolean DEFAULT NULL,
    stage text DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'pgjobs_wait';
COMMENT ON PROCEDURE pgjobs.wait(text, interval, boolean, text) IS
'Sleeps until the queue (or one stage of it) has a job to claim: ready is true; or until timeout: ready is false. Errors: 25001 inside a transaction block or after other work in the transaction, 42704 no such queue or stage, PJ004 quarantined.';

CREATE PROCEDURE pgjobs.await(
    id bigint,
    timeout interval,
    INOUT state text DEFAULT NULL,
    INOUT result jsonb DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'pgjobs_await';
COMMENT ON PROCEDURE pgjobs.await(bigint, interval, text, jsonb) IS
'Sleeps until the job is finished: state is completed, dead or cancelled, with its result; or until timeout: state is the present one. Errors: 25001 inside a transaction block, 42704 no such job.';
