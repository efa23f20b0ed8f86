-- An agent asks a worker for the key of its task's session, which the worker encrypts for the process that asks: for the public
-- key that it registered, as its own role. Its private half is in that process's memory alone.
ALTER TABLE flotilla_ops.agents ADD COLUMN public_key bytea CHECK (octet_length(public_key) = 32);
CREATE INDEX agents_by_public_key ON flotilla_ops.agents (public_key) WHERE public_key IS NOT NULL;

-- The hash of the secret of the task for which a process may have the key of this session: that of its task, and of those that
-- it was forked from. The tool gateway, too, for the call of a task that it was given the secret of. The worker holds the
-- request against the hash, so that a secret is sent nowhere.
CREATE FUNCTION flotilla.session_key_asker(tenant text, task text, try integer, session text, asker bytea)
    RETURNS TABLE (agent text, secret_hash bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE held AS (
        SELECT a.name, d.session_id, d.secret_hash, now() < d.deadline + interval '10 minutes' AS may_work
        FROM flotilla.delegations AS d
        JOIN flotilla_ops.agents AS a ON a.public_key = asker AND a.last_seen > now() - interval '1 hour'
            AND (a.name = d.agent OR a.name = 'mcp')
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try
          AND (d.state = 'open' OR (d.state = 'superseded' AND EXISTS (
              SELECT FROM flotilla.delegations AS l WHERE l.tenant_id = d.tenant_id AND l.root_task_id = d.root_task_id
                  AND l.attempt > d.attempt AND l.state = 'open')))
        LIMIT 1
    ), lineage AS (
        SELECT h.session_id, s.parent_session_id FROM held AS h
        JOIN flotilla.sessions AS s ON s.tenant_id = tenant AND s.session_id = h.session_id
        UNION
        SELECT p.session_id, p.parent_session_id FROM lineage AS l
        JOIN flotilla.sessions AS p ON p.tenant_id = tenant AND p.session_id = l.parent_session_id
        WHERE (SELECT h.may_work FROM held AS h)
    )
    SELECT h.name, h.secret_hash FROM held AS h
    WHERE EXISTS (SELECT FROM lineage AS l WHERE l.session_id = session)
    $$;
GRANT SELECT ON flotilla_ops.agents TO flotilla_definer;
ALTER FUNCTION flotilla.session_key_asker(text, text, integer, text, bytea) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.session_key_asker(text, text, integer, text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.session_key_asker(text, text, integer, text, bytea) TO flotilla_worker;
