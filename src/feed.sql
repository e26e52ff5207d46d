-- Queues that subscribe to topics: the worker makes a job of every message.

CREATE SEQUENCE pgjobs.feed_id_seq AS integer;
COMMENT ON SEQUENCE pgjobs.feed_id_seq IS 'Ids of feeds; never used again after a drop.';

CREATE TABLE pgjobs.feed (
    id integer NOT NULL,
    queue_id integer NOT NULL,
    topic_id integer NOT NULL,
    position bigint NOT NULL,
    key_pattern text,
    stage smallint NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT feed_pkey PRIMARY KEY (id),
    CONSTRAINT feed_queue_key UNIQUE (queue_id, topic_id)
) WITH (fillfactor = 50, vacuum_truncate = off);
COMMENT ON TABLE pgjobs.feed IS 'Which queue gets a job for each message of which topic, and how far that has come.';
COMMENT ON COLUMN pgjobs.feed.id IS 'Number of the feed; never used again.';
COMMENT ON COLUMN pgjobs.feed.queue_id IS 'The queue.';
COMMENT ON COLUMN pgjobs.feed.topic_id IS 'The topic.';
COMMENT ON COLUMN pgjobs.feed.position IS 'Messages up to here have their job.';
COMMENT ON COLUMN pgjobs.feed.key_pattern IS 'LIKE pattern that the key must match; NULL: all messages.';
COMMENT ON COLUMN pgjobs.feed.stage IS 'The stage in which the jobs begin.';
COMMENT ON COLUMN pgjobs.feed.created_at IS 'When it was made.';
COMMENT ON CONSTRAINT feed_pkey ON pgjobs.feed IS 'Each number once.';
COMMENT ON INDEX pgjobs.feed_pkey IS 'Each number once.';
COMMENT ON CONSTRAINT feed_queue_key ON pgjobs.feed IS 'A queue subscribes to a topic once.';
COMMENT ON INDEX pgjobs.feed_queue_key IS 'A queue subscribes to a topic once.';

SELECT pg_catalog.pg_extension_config_dump('pgjobs.feed_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.feed', '');

CREATE FUNCTION pgjobs.subscribe_queue(
    queue text,
    topic text,
    key_pattern text DEFAULT NULL,
    stage text DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_subscribe_queue';
COMMENT ON FUNCTION pgjobs.subscribe_queue(text, text, text, text) IS
'From now on, every message of the topic whose key matches key_pattern (as LIKE does; NULL: every message) becomes exactly one job in the queue: with its payload, its headers, and in the header "message" the topic, position, key and time. stage: where the jobs begin; NULL is the first. Called again, it changes pattern and stage. Errors: 42704 no such queue, topic or stage, 22023 bad pattern, 42501 without the rights produce on the queue and subscribe on the topic.';

CREATE FUNCTION pgjobs.unsubscribe_queue(queue text, topic text)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_unsubscribe_queue';
COMMENT ON FUNCTION pgjobs.unsubscribe_queue(text, text) IS
'Ends what subscribe_queue began; jobs that were made stay. Errors: 42704 no such queue or topic, or the queue does not subscribe to it, 42501 without the rights produce on the queue and subscribe on the topic.';

CREATE FUNCTION pgjobs._deliver(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__deliver';
COMMENT ON FUNCTION pgjobs._deliver(timestamptz) IS
'Private duty: makes jobs of the messages that subscribed queues have not got yet; returns how many jobs.';
