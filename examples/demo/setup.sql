-- The demo's queue: a run is initialized, then run. The lease is short, so that a worker that went
-- away is missed soon; every worker extends it while it works. `events` tells each change.
CREATE EXTENSION pgjobs;
SELECT pgjobs.create_queue('ci', stages => ARRAY['initialize', 'run'],
    lease => '2 seconds', max_attempts => 5, notify => 'events');
