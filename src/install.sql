-- pgjobs: a job server inside PostgreSQL. Install with: CREATE EXTENSION pgjobs
\echo Use "CREATE EXTENSION pgjobs" to load this file. \quit

CREATE SCHEMA pgjobs;
REVOKE ALL ON SCHEMA pgjobs FROM PUBLIC;
COMMENT ON SCHEMA pgjobs IS 'Job queues with stages, leases, retries and notifications.';

-- Fails, with the line to add, where the server does not preload the library. At commit it tells
-- the launcher that this database has jobs to look after.
CREATE FUNCTION pgjobs._installed()
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__installed';
COMMENT ON FUNCTION pgjobs._installed() IS
'Private: tells the launcher, at commit, that this database has the extension. 55000 without preloading.';

SELECT pgjobs._installed();

CREATE FUNCTION pgjobs.version()
RETURNS text
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'pgjobs_version';
COMMENT ON FUNCTION pgjobs.version() IS
'The version of the loaded library, such as 0.1.0.';

-- For the first line of the script that updates to that version: what follows there may need the library.
CREATE FUNCTION pgjobs._require_version(version text)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__require_version';
COMMENT ON FUNCTION pgjobs._require_version(text) IS
'Private: raises 55000 if the loaded library has another version than this, 42501 to others than administrators, 22004 for NULL. Scripts that update begin with it.';
