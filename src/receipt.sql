-- Receipts of jobs that were completed in a queue without history, so that a repeated complete is
-- understood. Each table has its turn for 15 minutes and is emptied before the next. Not dumped: a
-- worker does not repeat a call in a restored copy.

CREATE TABLE pgjobs.receipt_0 (
    last_id bigint NOT NULL,
    first_id bigint NOT NULL,
    queue_id integer NOT NULL,
    done bytea NOT NULL
) WITH (vacuum_truncate = off);
CREATE INDEX receipt_0_last_id ON pgjobs.receipt_0 (last_id);
CREATE TABLE pgjobs.receipt_1 (LIKE pgjobs.receipt_0) WITH (vacuum_truncate = off);
CREATE INDEX receipt_1_last_id ON pgjobs.receipt_1 (last_id);
CREATE TABLE pgjobs.receipt_2 (LIKE pgjobs.receipt_0) WITH (vacuum_truncate = off);
CREATE INDEX receipt_2_last_id ON pgjobs.receipt_2 (last_id);
COMMENT ON TABLE pgjobs.receipt_0 IS 'Private: ids and tokens of jobs completed where no history is kept; one of three tables in turn.';
COMMENT ON TABLE pgjobs.receipt_1 IS 'Private: see receipt_0.';
COMMENT ON TABLE pgjobs.receipt_2 IS 'Private: see receipt_0.';
COMMENT ON INDEX pgjobs.receipt_0_last_id IS 'Finds the receipt of a job.';
COMMENT ON COLUMN pgjobs.receipt_0.last_id IS 'The highest id in this row, at most 8192 more than the first.';
COMMENT ON COLUMN pgjobs.receipt_0.first_id IS 'The lowest id.';
COMMENT ON COLUMN pgjobs.receipt_0.queue_id IS 'Their queue.';
COMMENT ON COLUMN pgjobs.receipt_0.done IS 'Pairs of id and token, 8 bytes each in the byte order of the machine, by id.';
COMMENT ON INDEX pgjobs.receipt_1_last_id IS 'Finds the receipt of a job.';
COMMENT ON COLUMN pgjobs.receipt_1.last_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_1.first_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_1.queue_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_1.done IS 'See receipt_0.';
COMMENT ON INDEX pgjobs.receipt_2_last_id IS 'Finds the receipt of a job.';
COMMENT ON COLUMN pgjobs.receipt_2.last_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_2.first_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_2.queue_id IS 'See receipt_0.';
COMMENT ON COLUMN pgjobs.receipt_2.done IS 'See receipt_0.';

CREATE FUNCTION pgjobs._rotate_receipts(now timestamptz)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__rotate_receipts';
COMMENT ON FUNCTION pgjobs._rotate_receipts(timestamptz) IS
'Private duty: empties the table of receipts whose turn is next.';
