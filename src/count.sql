-- How many jobs there are, without counting them.

CREATE FUNCTION pgjobs._figures(queue_id integer, stage smallint DEFAULT NULL,
    OUT blocked bigint, OUT scheduled bigint, OUT ready bigint, OUT running bigint,
    OUT oldest_ready_at timestamptz, OUT counted boolean)
RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__figures';
COMMENT ON FUNCTION pgjobs._figures(integer, smallint) IS
'Private: the open jobs by state of a stage, or of all stages, of a queue that the current user may see, and when the oldest ready one became due. From shared memory; counted in the table where that has no figures (counted is false then).';

CREATE FUNCTION pgjobs._recount()
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__recount';
COMMENT ON FUNCTION pgjobs._recount() IS
'Private: counts the open jobs anew; returns how many figures in shared memory were wrong, 0 unless something is broken. Reads every open job. 55P03 if a transaction that has changed jobs does not end within 5 seconds.';
