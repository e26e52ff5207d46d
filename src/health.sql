-- What to watch.

CREATE FUNCTION pgjobs.health()
RETURNS TABLE (name text, ok boolean, detail text)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_health';
COMMENT ON FUNCTION pgjobs.health() IS
'One row per thing that can be wrong with pgjobs in this database: whether it is as it should be, and what was seen. Counts no jobs. Errors: 42501 unless you may monitor, operate or own a queue, monitor or own a topic, or are a member of pg_monitor.';

CREATE FUNCTION pgjobs.metrics()
RETURNS text
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_metrics';
COMMENT ON FUNCTION pgjobs.metrics() IS
'Figures of the queues that you may monitor or operate, and of pgjobs in this database, in the format OpenMetrics. Counts no jobs. Errors: 42501 unless you may monitor, operate or own a queue, monitor or own a topic, or are a member of pg_monitor.';
