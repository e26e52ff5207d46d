-- Rights.

CREATE FUNCTION pgjobs.grant_queue(queue text, role name, privileges text[])
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_grant_queue';
COMMENT ON FUNCTION pgjobs.grant_queue(text, name, text[]) IS
'Gives a role rights on a queue: produce, work, operate, monitor, own; none contains another. Also lets the role call the functions that go with them. Errors: 42704 no such queue or role, 22023 no such privilege, 42501 without the right own.';

CREATE FUNCTION pgjobs.revoke_queue(queue text, role name, privileges text[])
RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'pgjobs_revoke_queue';
COMMENT ON FUNCTION pgjobs.revoke_queue(text, name, text[]) IS
'Takes rights on a queue from a role. Errors as of grant_queue.';

CREATE FUNCTION pgjobs._visible_queues(privilege text)
RETURNS integer[]
LANGUAGE c STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'pgjobs__visible_queues';
COMMENT ON FUNCTION pgjobs._visible_queues(text) IS
'Private: ids of the queues whose jobs the current user may see (monitor) or read (operate). The views ask it once per query.';
