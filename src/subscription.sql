-- Subscriptions: durable places in the log of a topic, independent of each other. Who receives has a
-- lease; what he acknowledges under its token moves the place.

CREATE SEQUENCE pgjobs.subscription_id_seq AS integer;
COMMENT ON SEQUENCE pgjobs.subscription_id_seq IS 'Ids of subscriptions; never used again after a drop.';

CREATE TABLE pgjobs.subscription (
    id integer NOT NULL,
    topic_id integer NOT NULL,
    name text NOT NULL,
    position bigint NOT NULL,
    sent_to bigint NOT NULL,
    token bigint,
    lease_expires_at timestamptz,
    done_token bigint,
    reader text,
    created_at timestamptz NOT NULL,
    CONSTRAINT subscription_pkey PRIMARY KEY (id),
    CONSTRAINT subscription_name_key UNIQUE (name)
) WITH (fillfactor = 50, vacuum_truncate = off);
COMMENT ON TABLE pgjobs.subscription IS 'One row per subscription: where it stands and who reads it.';
COMMENT ON COLUMN pgjobs.subscription.id IS 'Number of the subscription; never used again.';
COMMENT ON COLUMN pgjobs.subscription.topic_id IS 'The topic.';
COMMENT ON COLUMN pgjobs.subscription.name IS 'The name that clients use.';
COMMENT ON COLUMN pgjobs.subscription.position IS 'Messages up to here are acknowledged.';
COMMENT ON COLUMN pgjobs.subscription.sent_to IS 'Messages up to here were handed out under the token.';
COMMENT ON COLUMN pgjobs.subscription.token IS 'Token of the lease; NULL without one.';
COMMENT ON COLUMN pgjobs.subscription.lease_expires_at IS 'End of the lease; NULL without one.';
COMMENT ON COLUMN pgjobs.subscription.done_token IS 'Token under which everything handed out was acknowledged last.';
COMMENT ON COLUMN pgjobs.subscription.reader IS 'application_name of who received last.';
COMMENT ON COLUMN pgjobs.subscription.created_at IS 'When the subscription was made.';
COMMENT ON CONSTRAINT subscription_pkey ON pgjobs.subscription IS 'Each number once.';
COMMENT ON INDEX pgjobs.subscription_pkey IS 'Each number once.';
COMMENT ON CONSTRAINT subscription_name_key ON pgjobs.subscription IS 'No two subscriptions of one name.';
COMMENT ON INDEX pgjobs.subscription_name_key IS 'No two subscriptions of one name.';

SELECT pg_catalog.pg_extension_config_dump('pgjobs.subscription_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('pgjobs.subscription', '');

CREATE FUNCTION pgjobs.subscribe(
    subscription text,
    topic text,
    from_position bigint DEFAULT NULL,
    from_time timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_subscribe';
COMMENT ON FUNCTION pgjobs.subscribe(text, text, bigint, timestamptz) IS
'Makes a subscription to a topic. It begins with the message at from_position (0: the oldest kept) or the first one published at or after from_time; without both, with what commits from now on. Errors: 42710 name taken, 42704 no such topic, 22023 bad name, both given, or a position that was dropped already, 42501 without the right subscribe.';

CREATE FUNCTION pgjobs.unsubscribe(subscription text)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_unsubscribe';
COMMENT ON FUNCTION pgjobs.unsubscribe(text) IS
'Removes a subscription. Errors: 42704 no such subscription, 42501 without the right subscribe on its topic.';

CREATE FUNCTION pgjobs.receive(
    subscription text,
    max_messages bigint DEFAULT 100,
    lease interval DEFAULT '1 minute',
    token bigint DEFAULT NULL)
RETURNS SETOF pgjobs.message
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_receive';
COMMENT ON FUNCTION pgjobs.receive(text, bigint, interval, bigint) IS
'The next messages of a subscription, in order, at most max_messages (1 to 10000), and a lease on it: until all of them are acknowledged or the lease ends, nobody receives anything else from it. No rows: nothing new, or somebody has the lease. token: of the lease that the caller has; he gets what comes behind the messages that he has not acknowledged yet, under the same token, and the lease begins anew. Errors: PJ001 somebody else has the lease now, 42704 no such subscription, 55000 messages were dropped by retention before they were received, PJ004 quarantined, 25006 on a standby, 42501 without the right subscribe.';

CREATE FUNCTION pgjobs.ack(subscription text, token bigint, up_to bigint)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_ack';
COMMENT ON FUNCTION pgjobs.ack(text, bigint, bigint) IS
'Acknowledges the received messages up to a position, with the token that came with them; the last one ends the lease. A repeated call changes nothing. Errors: PJ001 somebody else has the lease now, 22023 a position that was not received, 42704 no such subscription, 42501 without the right subscribe.';

CREATE FUNCTION pgjobs.seek(
    subscription text,
    to_position bigint DEFAULT NULL,
    to_time timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_seek';
COMMENT ON FUNCTION pgjobs.seek(text, bigint, timestamptz) IS
'Moves a subscription: it goes on with the message at to_position (0: the oldest kept), or with the first one published at or after to_time. Ends the lease of whoever has it. Errors: 22023 none or both given, or a position that was dropped already, 42704 no such subscription, 42501 without the right subscribe.';

CREATE PROCEDURE pgjobs.wait_message(
    subscription text,
    timeout interval,
    INOUT ready boolean DEFAULT NULL)
LANGUAGE c
AS 'MODULE_PATHNAME', 'pgjobs_wait_message';
COMMENT ON PROCEDURE pgjobs.wait_message(text, interval, boolean) IS
'Sleeps until the subscription has a message to receive: ready is true; or until timeout: ready is false. Errors: 25001 inside a transaction block or after other work in the transaction, 42704 no such subscription, 55000 messages were dropped, PJ004 quarantined.';

CREATE FUNCTION pgjobs._lag(topic_id integer, place bigint, OUT messages bigint, OUT since timestamptz)
RETURNS record
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__lag';
COMMENT ON FUNCTION pgjobs._lag(integer, bigint) IS
'Private: how many positions lie behind a place, 0 if no message does, and when the first message there was published; NULL on a standby.';
