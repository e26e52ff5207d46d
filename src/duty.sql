-- Duties of the background worker, callable with any time so that tests need no sleep.

CREATE FUNCTION pgjobs._reap(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__reap';
COMMENT ON FUNCTION pgjobs._reap(timestamptz) IS
'Private duty: takes back jobs whose lease ended before the given time or whose session is gone; returns how many.';

CREATE FUNCTION pgjobs._promote(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__promote';
COMMENT ON FUNCTION pgjobs._promote(timestamptz) IS
'Private duty: makes scheduled jobs ready whose time has come; returns how many.';

CREATE FUNCTION pgjobs._expire(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__expire';
COMMENT ON FUNCTION pgjobs._expire(timestamptz) IS
'Private duty: cancels waiting jobs whose expires_at has passed; returns how many.';

CREATE FUNCTION pgjobs._check_leases()
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__check_leases';
COMMENT ON FUNCTION pgjobs._check_leases() IS
'Private check: how many running jobs are missing in the list of leases; 0 while nothing commits and the list is complete.';
