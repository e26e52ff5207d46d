-- A heartbeat is kept in shared memory: it writes no row, and everybody sees it.
CREATE FUNCTION pg_temp.refused(command text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE command;
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;
SELECT pgjobs.create_queue('work', lease => '1 hour');
CREATE FUNCTION pg_temp.left_of(id bigint) RETURNS interval LANGUAGE sql
    RETURN date_trunc('minute', (SELECT lease_expires_at - clock_timestamp() FROM pgjobs.jobs j WHERE j.id = left_of.id) + '30 seconds');
SELECT pgjobs.enqueue('work') AS id \gset
SELECT token FROM pgjobs.claim('work', lease => '30 minutes') \gset
SELECT ctid AS place, xmin AS writer FROM pgjobs.job WHERE id = :id \gset

-- No longer than the claim was for.
SELECT date_trunc('minute', pgjobs.extend(:id, :token, '10 minutes') - clock_timestamp() + '30 seconds') AS never_less;
SELECT pgjobs.extend(:id, :token, '29 minutes') > clock_timestamp() AS ok;
SELECT pg_temp.left_of(:id);
SELECT ctid = :'place' AND xmin = :'writer' AS same_row FROM pgjobs.job WHERE id = :id;
SELECT pgjobs._reap(clock_timestamp() + '29 minutes');
SELECT pgjobs.extend_many(ARRAY[:id], ARRAY[:token], '30 minutes') = ARRAY[:id]::bigint[] AS extended;
SELECT ctid = :'place' AND xmin = :'writer' AS same_row FROM pgjobs.job WHERE id = :id;
SELECT date_trunc('minute', next_lease_expires_at - clock_timestamp() + '30 seconds') AS left FROM pgjobs.workers;
SELECT date_trunc('minute', lease_expires_at - clock_timestamp() + '30 seconds') AS left FROM pgjobs.job(:id);

-- Longer than that: the row is written, so that a restart does not lose what was promised.
SELECT pgjobs.extend(:id, :token, '50 minutes') > clock_timestamp() + '49 minutes' AS ok;
SELECT ctid = :'place' AS same_row FROM pgjobs.job WHERE id = :id;
SELECT pg_temp.left_of(:id);
SELECT pgjobs._reap(clock_timestamp() + '49 minutes');

-- The reaper goes by the later one of both; the fence holds.
SELECT pgjobs.extend(:id, :token, '50 minutes') > clock_timestamp() AS ok;
SELECT pgjobs._reap(clock_timestamp() + '2 hours');
SELECT state FROM pgjobs.jobs WHERE id = :id;
SELECT pg_temp.refused(format('SELECT pgjobs.extend(%s, %s)', :id, :token));

-- A claim of this transaction is in no list yet; one that a rollback takes back is not extended.
SELECT pgjobs.purge_queue('work');
SELECT pgjobs.enqueue('work') AS id \gset
BEGIN;
SELECT token FROM pgjobs.claim('work') \gset
SELECT pgjobs.extend(:id, :token) > clock_timestamp() AS ok;
ROLLBACK;
SELECT state, lease_expires_at FROM pgjobs.jobs WHERE id = :id;
SELECT pg_temp.refused(format('SELECT pgjobs.extend(%s, %s)', :id, :token));
-- A heartbeat counts at once, whatever becomes of its transaction.
SELECT token FROM pgjobs.claim('work', lease => '30 minutes') \gset
SELECT lease_expires_at AS until FROM pgjobs.jobs WHERE id = :id \gset
BEGIN;
SELECT pgjobs.extend(:id, :token, '30 minutes') > :'until' AS later;
ROLLBACK;
SELECT lease_expires_at > :'until' AS still_later FROM pgjobs.jobs WHERE id = :id;

-- Progress and heartbeats do not undo each other.
SELECT pgjobs.progress(:id, :token, 0.5);
SELECT lease_expires_at > :'until' AS still_later FROM pgjobs.jobs WHERE id = :id;
SELECT pgjobs.complete(:id, :token);

-- A session lease with an end.
SELECT pgjobs.enqueue('work') AS id \gset
SELECT token FROM pgjobs.claim('work', hold => true, lease => '30 minutes') \gset
SELECT pgjobs.extend(:id, :token, '20 minutes') > clock_timestamp() + '19 minutes' AS ok;
SELECT pgjobs.release(:id, :token);
SELECT pgjobs.drop_queue('work', force => true);
