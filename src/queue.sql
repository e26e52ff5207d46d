-- Queues, their stages, and the home that says where they may run.

CREATE SEQUENCE pgjobs.queue_id_seq AS integer;
COMMENT ON SEQUENCE pgjobs.queue_id_seq IS 'Ids of queues; never used again after a drop.';

CREATE TABLE pgjobs.home (
    id bigint NOT NULL,
    database oid NOT NULL,
    CONSTRAINT home_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE pgjobs.home IS
'Where queues may run: a queue runs if its home is listed here with this database''s oid. Never dumped, so that a restored copy is quarantined.';
COMMENT ON COLUMN pgjobs.home.id IS 'Random identity, copied into each queue.';
COMMENT ON COLUMN pgjobs.home.database IS 'Oid of the database in which the queues were made or adopted.';
COMMENT ON CONSTRAINT home_pkey ON pgjobs.home IS 'Each home once.';
COMMENT ON INDEX pgjobs.home_pkey IS 'Each home once.';

CREATE TABLE pgjobs.queue (
    id integer NOT NULL,
    name text NOT NULL,
    home bigint NOT NULL,
    paused boolean NOT NULL,
    lease interval NOT NULL,
    max_attempts integer NOT NULL,
    backoff interval NOT NULL,
    backoff_max interval NOT NULL,
    retention interval NOT NULL,
    dead_retention interval NOT NULL,
    notify text NOT NULL,
    dead_letter integer,
    events_topic integer,
    durable_claims boolean NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT queue_pkey PRIMARY KEY (id),
    CONSTRAINT queue_name_key UNIQUE (name)
);
COMMENT ON TABLE pgjobs.queue IS 'One row per queue: its name and settings.';
COMMENT ON COLUMN pgjobs.queue.id IS 'Number used by the other tables; never used again.';
COMMENT ON COLUMN pgjobs.queue.name IS 'The name that clients use.';
COMMENT ON COLUMN pgjobs.queue.home IS 'The home in which the queue may run.';
COMMENT ON COLUMN pgjobs.queue.paused IS 'A paused queue takes jobs and hands out none.';
COMMENT ON COLUMN pgjobs.queue.lease IS 'How long a claim lasts where the claimer does not say.';
COMMENT ON COLUMN pgjobs.queue.max_attempts IS 'Attempts per stage before a job is dead.';
COMMENT ON COLUMN pgjobs.queue.backoff IS 'Wait after the first failed attempt; doubles with each.';
COMMENT ON COLUMN pgjobs.queue.backoff_max IS 'The longest wait after a failed attempt.';
COMMENT ON COLUMN pgjobs.queue.retention IS 'How long completed and cancelled jobs are kept.';
COMMENT ON COLUMN pgjobs.queue.dead_retention IS 'How long dead jobs are kept.';
COMMENT ON COLUMN pgjobs.queue.notify IS 'off, wakeup or events.';
COMMENT ON COLUMN pgjobs.queue.dead_letter IS 'Id of the queue that receives a copy of each dead job.';
COMMENT ON COLUMN pgjobs.queue.events_topic IS 'Id of the topic to which every change of a job''s state is published.';
COMMENT ON COLUMN pgjobs.queue.durable_claims IS 'Claims wait for the disk as the session says.';
COMMENT ON COLUMN pgjobs.queue.created_at IS 'When the queue was made.';
COMMENT ON CONSTRAINT queue_pkey ON pgjobs.queue IS 'Each number once.';
COMMENT ON INDEX pgjobs.queue_pkey IS 'Each number once.';
COMMENT ON CONSTRAINT queue_name_key ON pgjobs.queue IS 'No two queues of one name.';
COMMENT ON INDEX pgjobs.queue_name_key IS 'No two queues of one name.';

CREATE TABLE pgjobs.stage (
    queue_id integer NOT NULL,
    number smallint NOT NULL,
    name text NOT NULL,
    CONSTRAINT stage_pkey PRIMARY KEY (queue_id, number),
    CONSTRAINT stage_name_key UNIQUE (queue_id, name)
);
COMMENT ON TABLE pgjobs.stage IS 'The stages of each queue, in the order in which a job passes them.';
COMMENT ON COLUMN pgjobs.stage.queue_id IS 'The queue.';
COMMENT ON COLUMN pgjobs.stage.number IS 'Place in the order, from 1.';
COMMENT ON COLUMN pgjobs.stage.name IS 'Name of the stage, unique in its queue.';
COMMENT ON CONSTRAINT stage_pkey ON pgjobs.stage IS 'One stage at each place of a queue.';
COMMENT ON INDEX pgjobs.stage_pkey IS 'One stage at each place of a queue.';
COMMENT ON CONSTRAINT stage_name_key ON pgjobs.stage IS 'No two stages of one name in a queue.';
COMMENT ON INDEX pgjobs.stage_name_key IS 'No two stages of one name in a queue.';

CREATE TABLE pgjobs.acl (
    queue_id integer NOT NULL,
    role oid NOT NULL,
    role_name name NOT NULL,
    rights integer NOT NULL,
    system bigint NOT NULL,
    CONSTRAINT acl_pkey PRIMARY KEY (queue_id, role)
);
COMMENT ON TABLE pgjobs.acl IS 'Who may do what with a queue.';
COMMENT ON COLUMN pgjobs.acl.queue_id IS 'The queue.';
COMMENT ON COLUMN pgjobs.acl.role IS 'Oid of the role in this cluster.';
COMMENT ON COLUMN pgjobs.acl.role_name IS 'Name of the role when the right was granted; finds the role again after a restore.';
COMMENT ON COLUMN pgjobs.acl.rights IS 'Sum of 1 produce, 2 work, 4 operate, 8 monitor, 16 own.';
COMMENT ON COLUMN pgjobs.acl.system IS 'Identifier of the cluster in which the oid is the role''s.';
COMMENT ON CONSTRAINT acl_pkey ON pgjobs.acl IS 'One entry per queue and role.';
COMMENT ON INDEX pgjobs.acl_pkey IS 'One entry per queue and role.';

SELECT pg_catalog.pg_extension_config_dump('pgjobs.queue_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.queue', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.stage', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.acl', '');

-- A change of any of these tables makes every session read its queues anew.
CREATE FUNCTION pgjobs._queues_changed()
RETURNS trigger
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__queues_changed';
COMMENT ON FUNCTION pgjobs._queues_changed() IS
'Private trigger: makes every session forget what it knows of queues, stages and rights.';

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.home
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.queue
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.stage
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.acl
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
ALTER TABLE pgjobs.home ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.queue ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.stage ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.acl ENABLE ALWAYS TRIGGER changed;
COMMENT ON TRIGGER changed ON pgjobs.home IS 'Makes every session read its queues anew.';
COMMENT ON TRIGGER changed ON pgjobs.queue IS 'Makes every session read its queues anew.';
COMMENT ON TRIGGER changed ON pgjobs.stage IS 'Makes every session read its queues anew.';
COMMENT ON TRIGGER changed ON pgjobs.acl IS 'Makes every session read its queues anew.';

CREATE FUNCTION pgjobs.create_queue(
    name text,
    stages text[] DEFAULT NULL,
    lease interval DEFAULT '5 minutes',
    max_attempts bigint DEFAULT 25,
    backoff interval DEFAULT '1 second',
    backoff_max interval DEFAULT '1 hour',
    retention interval DEFAULT '1 day',
    dead_retention interval DEFAULT '7 days',
    notify text DEFAULT 'wakeup',
    events_topic text DEFAULT NULL,
    dead_letter text DEFAULT NULL,
    durable_claims boolean DEFAULT false)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_create_queue';
COMMENT ON FUNCTION pgjobs.create_queue(text, text[], interval, bigint, interval, interval, interval, interval, text, text, text, boolean) IS
'Makes a queue. stages: names in the order a job passes them; NULL is one stage "work". Retry n waits backoff * 2^(n-1), at most backoff_max, times 50 to 100 percent. retention, dead_retention: how long finished jobs are kept; 0 does not keep them. notify: off, wakeup or events. events_topic: topic to which every change of a job''s state is published, in the same transaction. dead_letter: queue that receives a copy of each dead job. Errors: 42710 name taken, 22023 bad name or value, 42704 no such dead-letter queue or topic.';

CREATE FUNCTION pgjobs.alter_queue(
    name text,
    stages text[] DEFAULT NULL,
    lease interval DEFAULT NULL,
    max_attempts bigint DEFAULT NULL,
    backoff interval DEFAULT NULL,
    backoff_max interval DEFAULT NULL,
    retention interval DEFAULT NULL,
    dead_retention interval DEFAULT NULL,
    notify text DEFAULT NULL,
    events_topic text DEFAULT NULL,
    dead_letter text DEFAULT NULL,
    durable_claims boolean DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_alter_queue';
COMMENT ON FUNCTION pgjobs.alter_queue(text, text[], interval, bigint, interval, interval, interval, interval, text, text, text, boolean) IS
'Changes the options that are given; NULL leaves an option as it is. stages: the whole list; new ones may only follow the old ones. dead_letter, events_topic: empty text removes it. A changed retention holds for jobs that finish later. Errors: 42704 no such queue, 22023 bad value.';

CREATE FUNCTION pgjobs.drop_queue(name text, force boolean DEFAULT false)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_drop_queue';
COMMENT ON FUNCTION pgjobs.drop_queue(text, boolean) IS
'Removes a queue and its finished jobs; true when done. Waits for transactions that are adding jobs to it. Errors: 55006 while it has open jobs, unless forced; 2BP01 while it is the dead-letter queue of another, unless forced; 42704 no such queue.';

CREATE FUNCTION pgjobs.pause_queue(name text)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_pause_queue';
COMMENT ON FUNCTION pgjobs.pause_queue(text) IS
'The queue takes jobs but hands out none until resume_queue. Running jobs go on. 42704 no such queue.';

CREATE FUNCTION pgjobs.resume_queue(name text)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_resume_queue';
COMMENT ON FUNCTION pgjobs.resume_queue(text) IS
'Ends a pause and wakes the waiting workers. 42704 no such queue.';

CREATE FUNCTION pgjobs.purge_queue(name text)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_purge_queue';
COMMENT ON FUNCTION pgjobs.purge_queue(text) IS
'Removes the jobs of a queue that are not running, without a trace, and returns how many. 42704 no such queue.';

CREATE FUNCTION pgjobs.resume()
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_resume';
COMMENT ON FUNCTION pgjobs.resume() IS
'Ends the quarantine of a restored or copied database: its queues run here from now on, and its grants find their roles by name. For the extension''s owner and superusers.';
