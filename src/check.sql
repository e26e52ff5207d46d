-- Self-checks, for tests and for doubts.

CREATE FUNCTION pgjobs._check_frontier()
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__check_frontier';
COMMENT ON FUNCTION pgjobs._check_frontier() IS
'Private check: how many ready jobs stand where no claim would look; 0 unless something is broken.';

CREATE FUNCTION pgjobs._reset_hints()
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__reset_hints';
COMMENT ON FUNCTION pgjobs._reset_hints() IS
'Forgets what shared memory knows of this database''s jobs; all of it is found again in the tables.';
