-- A CI service that has its table of runs already becomes a user of pgjobs, in place. Run this in a
-- database of its own; docs/own-table.md tells the story step by step.
\set ON_ERROR_STOP on

-- What the service had before: a status, and who set it when.
CREATE TYPE ci_status AS ENUM ('new', 'initializing', 'initialized', 'running', 'success', 'error');
CREATE TABLE ci_runs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository text NOT NULL,
    commit text NOT NULL,
    status ci_status NOT NULL DEFAULT 'new',
    worker text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    token bigint -- new: the fence
);

-- What makes it a job table: two stages, each from a state that waits to one that is done.
CREATE EXTENSION IF NOT EXISTS pgjobs;
SELECT pgjobs.attach_table('ci_runs', 'status', '[
    {"stage": "initialize", "waiting": "new", "working": "initializing", "done": "initialized",
     "failed": "error", "stale_after": "3 seconds"},
    {"stage": "run", "waiting": "initialized", "working": "running", "done": "success",
     "failed": "error", "stale_after": "3 seconds"}]',
    changed_at => 'updated_at', token => 'token', channel => 'ci_runs');

-- An API call:
--   INSERT INTO ci_runs (repository, commit) VALUES ('git@example.org:app', 'c0ffee');
-- A worker of the first stage, in a loop:
--   CALL pgjobs.wait_row('ci_runs', 'initialize', '30 seconds');
--   SELECT id, repository, commit, token FROM pgjobs.claim_row(NULL::ci_runs, 'initialize');
--   ... clone the repository ...
--   SELECT pgjobs.finish_row('ci_runs', :id, 'initialize', token => :token);
-- Whoever watches:
--   LISTEN ci_runs;
