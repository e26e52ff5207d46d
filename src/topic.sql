-- Topics: append-only logs of messages. Each is kept in segments, which are partitions of one table;
-- retention drops whole segments. Positions come from a sequence per topic, in blocks.
-- Segments and sequences are made at run time, never here: what belongs to the extension would lose
-- its rows in a dump.

CREATE SEQUENCE pgjobs.topic_id_seq AS integer;
COMMENT ON SEQUENCE pgjobs.topic_id_seq IS 'Ids of topics; never used again after a drop.';

CREATE SEQUENCE pgjobs.segment_id_seq AS integer;
COMMENT ON SEQUENCE pgjobs.segment_id_seq IS 'Ids of segments; rising in every topic.';

CREATE TABLE pgjobs.topic (
    id integer NOT NULL,
    name text NOT NULL,
    home bigint NOT NULL,
    retention interval NOT NULL,
    pruned_to bigint NOT NULL,
    created_at timestamptz NOT NULL,
    CONSTRAINT topic_pkey PRIMARY KEY (id),
    CONSTRAINT topic_name_key UNIQUE (name)
);
COMMENT ON TABLE pgjobs.topic IS 'One row per topic: its name and settings.';
COMMENT ON COLUMN pgjobs.topic.id IS 'Number used by the other tables; never used again.';
COMMENT ON COLUMN pgjobs.topic.name IS 'The name that clients use.';
COMMENT ON COLUMN pgjobs.topic.home IS 'The home in which messages may be received.';
COMMENT ON COLUMN pgjobs.topic.retention IS 'How long messages are kept at least.';
COMMENT ON COLUMN pgjobs.topic.pruned_to IS 'Messages up to this position were dropped; 0: none.';
COMMENT ON COLUMN pgjobs.topic.created_at IS 'When the topic was made.';
COMMENT ON CONSTRAINT topic_pkey ON pgjobs.topic IS 'Each number once.';
COMMENT ON INDEX pgjobs.topic_pkey IS 'Each number once.';
COMMENT ON CONSTRAINT topic_name_key ON pgjobs.topic IS 'No two topics of one name.';
COMMENT ON INDEX pgjobs.topic_name_key IS 'No two topics of one name.';

CREATE TABLE pgjobs.segment (
    id integer NOT NULL,
    topic_id integer NOT NULL,
    floor bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    CONSTRAINT segment_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE pgjobs.segment IS
'The segments of each topic: messages go to the newest; all positions in it are above those in older ones.';
COMMENT ON COLUMN pgjobs.segment.id IS 'Number of the segment; its table is pgjobs.log_<id>.';
COMMENT ON COLUMN pgjobs.segment.topic_id IS 'The topic.';
COMMENT ON COLUMN pgjobs.segment.floor IS 'No message in it has a lower position.';
COMMENT ON COLUMN pgjobs.segment.opened_at IS 'When it was made.';
COMMENT ON COLUMN pgjobs.segment.closed_at IS 'When its successor was made; NULL for the newest.';
COMMENT ON CONSTRAINT segment_pkey ON pgjobs.segment IS 'Each number once.';
COMMENT ON INDEX pgjobs.segment_pkey IS 'Each number once.';

CREATE TABLE pgjobs.log (
    position bigint NOT NULL,
    published_at timestamptz NOT NULL,
    segment integer NOT NULL,
    payload jsonb NOT NULL,
    key text,
    headers jsonb
) PARTITION BY LIST (segment);
COMMENT ON TABLE pgjobs.log IS 'Messages of all topics, a partition per segment.';
COMMENT ON COLUMN pgjobs.log.position IS 'Place in the order of the topic.';
COMMENT ON COLUMN pgjobs.log.published_at IS 'When it was published; never goes back within a topic.';
COMMENT ON COLUMN pgjobs.log.segment IS 'The segment, and so the topic.';
COMMENT ON COLUMN pgjobs.log.payload IS 'The message, as given by the publisher.';
COMMENT ON COLUMN pgjobs.log.key IS 'What it is about, as given by the publisher.';
COMMENT ON COLUMN pgjobs.log.headers IS 'Facts about the message, as given by the publisher.';

CREATE TABLE pgjobs.topic_acl (
    topic_id integer NOT NULL,
    role oid NOT NULL,
    role_name name NOT NULL,
    rights integer NOT NULL,
    system bigint NOT NULL,
    CONSTRAINT topic_acl_pkey PRIMARY KEY (topic_id, role)
);
COMMENT ON TABLE pgjobs.topic_acl IS 'Who may do what with a topic.';
COMMENT ON COLUMN pgjobs.topic_acl.topic_id IS 'The topic.';
COMMENT ON COLUMN pgjobs.topic_acl.role IS 'Oid of the role in this cluster.';
COMMENT ON COLUMN pgjobs.topic_acl.role_name IS 'Name of the role when the right was granted; finds the role again after a restore.';
COMMENT ON COLUMN pgjobs.topic_acl.rights IS 'Sum of 8 monitor, 16 own, 32 publish, 64 subscribe.';
COMMENT ON COLUMN pgjobs.topic_acl.system IS 'Identifier of the cluster in which the oid is the role''s.';
COMMENT ON CONSTRAINT topic_acl_pkey ON pgjobs.topic_acl IS 'One entry per topic and role.';
COMMENT ON INDEX pgjobs.topic_acl_pkey IS 'One entry per topic and role.';

SELECT pg_catalog.pg_extension_config_dump('pgjobs.topic_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.segment_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.topic', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.segment', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.topic_acl', '');

CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.topic
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.segment
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
CREATE TRIGGER changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON pgjobs.topic_acl
    FOR EACH STATEMENT EXECUTE FUNCTION pgjobs._queues_changed();
ALTER TABLE pgjobs.topic ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.segment ENABLE ALWAYS TRIGGER changed;
ALTER TABLE pgjobs.topic_acl ENABLE ALWAYS TRIGGER changed;
COMMENT ON TRIGGER changed ON pgjobs.topic IS 'Makes every session read its topics anew.';
COMMENT ON TRIGGER changed ON pgjobs.segment IS 'Makes every session read its topics anew.';
COMMENT ON TRIGGER changed ON pgjobs.topic_acl IS 'Makes every session read its topics anew.';

CREATE FUNCTION pgjobs.create_topic(name text, retention interval DEFAULT '7 days')
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_create_topic';
COMMENT ON FUNCTION pgjobs.create_topic(text, interval) IS
'Makes a topic. retention: how long messages are kept at least, from one second; they are dropped in segments of an eighth of that, at most a day. Errors: 42710 name taken, 22023 bad name or value.';

CREATE FUNCTION pgjobs.alter_topic(name text, retention interval DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_alter_topic';
COMMENT ON FUNCTION pgjobs.alter_topic(text, interval) IS
'Changes the options that are given; NULL leaves an option as it is. A changed retention holds for the messages that are there, too. Errors: 42704 no such topic, 22023 bad value, 42501 without the right own.';

CREATE FUNCTION pgjobs.drop_topic(name text)
RETURNS boolean
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_drop_topic';
COMMENT ON FUNCTION pgjobs.drop_topic(text) IS
'Removes a topic with its messages and subscriptions; true when done. Waits for transactions that have published to it. Errors: 42704 no such topic, 2BP01 while it is the events_topic of a queue, 42501 without the right own.';

CREATE TYPE pgjobs.message AS (
    position bigint,
    topic text,
    key text,
    payload jsonb,
    headers jsonb,
    published_at timestamptz,
    token bigint
);
COMMENT ON TYPE pgjobs.message IS 'A message, as read and receive return it.';
COMMENT ON COLUMN pgjobs.message.position IS 'Place in the order of the topic; rises, with gaps.';
COMMENT ON COLUMN pgjobs.message.topic IS 'The topic.';
COMMENT ON COLUMN pgjobs.message.key IS 'What it is about, as given by the publisher.';
COMMENT ON COLUMN pgjobs.message.payload IS 'The message, as given by the publisher.';
COMMENT ON COLUMN pgjobs.message.headers IS 'Facts about the message, as given by the publisher.';
COMMENT ON COLUMN pgjobs.message.published_at IS 'When it was published; its transaction may have committed later.';
COMMENT ON COLUMN pgjobs.message.token IS 'For ack; NULL from read.';

CREATE FUNCTION pgjobs.publish(topic text, payload jsonb, key text DEFAULT NULL, headers jsonb DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_publish';
COMMENT ON FUNCTION pgjobs.publish(text, jsonb, text, jsonb) IS
'Appends a message to a topic and returns its position. Readers see it once the transaction commits; until then they wait before it. headers: a JSON object. Errors: 42704 no such topic, 42501 without the right publish, 54000 larger than pgjobs.max_payload, 22023 bad key or headers.';

CREATE FUNCTION pgjobs.publish_many(topic text, payloads jsonb[], keys text[] DEFAULT NULL, headers jsonb[] DEFAULT NULL)
RETURNS bigint[]
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_publish_many';
COMMENT ON FUNCTION pgjobs.publish_many(text, jsonb[], text[], jsonb[]) IS
'Appends messages to a topic in the order of the array and returns their positions. keys, headers: as many as payloads; NULL elements are messages without. Errors as of publish.';

CREATE FUNCTION pgjobs.read(topic text, after bigint, max_messages bigint DEFAULT 100)
RETURNS SETOF pgjobs.message
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_read';
COMMENT ON FUNCTION pgjobs.read(text, bigint, bigint) IS
'The messages behind position after, in order, at most max_messages (1 to 10000); keeps no state. after: the last position seen, 0 for the oldest message kept. Never shows a position while a lower one may still come. Errors: 42704 no such topic, 55000 messages behind after were dropped already, 25006 on a standby, 42501 without the right subscribe.';

CREATE FUNCTION pgjobs.grant_topic(topic text, role name, privileges text[])
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_grant_topic';
COMMENT ON FUNCTION pgjobs.grant_topic(text, name, text[]) IS
'Gives a role rights on a topic: publish, subscribe, monitor, own; none contains another. Also lets the role call the functions that go with them. Errors: 42704 no such topic or role, 22023 no such privilege, 42501 without the right own.';

CREATE FUNCTION pgjobs.revoke_topic(topic text, role name, privileges text[])
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_revoke_topic';
COMMENT ON FUNCTION pgjobs.revoke_topic(text, name, text[]) IS
'Takes rights on a topic from a role. Errors as of grant_topic.';

CREATE FUNCTION pgjobs._visible_topics()
RETURNS integer[]
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__visible_topics';
COMMENT ON FUNCTION pgjobs._visible_topics() IS
'Private: ids of the topics that the current user may monitor, subscribe to or owns. The views ask it once per query.';

CREATE FUNCTION pgjobs._topic_figures(topic_id integer,
    OUT last_position bigint, OUT first_position bigint, OUT first_published_at timestamptz)
RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__topic_figures';
COMMENT ON FUNCTION pgjobs._topic_figures(integer) IS
'Private: the ends of a topic''s log, for the current user''s eyes; NULL on a standby.';

CREATE FUNCTION pgjobs._keep_topics(now timestamptz)
RETURNS bigint
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs__keep_topics';
COMMENT ON FUNCTION pgjobs._keep_topics(timestamptz) IS
'Private duty: begins new segments where it is time and drops those that are past retention; returns how many it dropped.';
