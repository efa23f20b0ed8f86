-- Calls at once have the limits of all other work: so many for one task, none while the tenant is suspended, none in a replay.

-- Of this try of the task.
ALTER TABLE flotilla.delegations ADD COLUMN calls_at_once integer NOT NULL DEFAULT 0;
GRANT UPDATE (calls_at_once) ON flotilla.delegations TO flotilla_definer;

-- As before, but that a task of a replay asks for nothing.
CREATE OR REPLACE FUNCTION flotilla.asking_task(tenant text, task text, try integer, secret text, call text, of_server text,
    of_tool text)
    RETURNS TABLE (session_id text, run_id text, principal text, deadline timestamptz, allowed_sha256 text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.session_id, d.run_id, d.principal, d.deadline, (
        SELECT a.sha256 FROM flotilla.allowed_tools AS a
        WHERE a.tenant_id = tenant AND a.server = of_server AND a.tool = of_tool)
    FROM flotilla.delegations AS d
    WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open' AND now() < d.deadline
      AND d.secret_hash = sha256(convert_to(secret, 'UTF8')) AND starts_with(call, replace(task, '~', '-') || '.mcp.')
      AND NOT EXISTS (SELECT FROM flotilla.sessions AS s
                      WHERE s.tenant_id = tenant AND s.session_id = d.session_id AND s.kind = 'replay')
      AND flotilla_ops.is_agent('mcp')
    $$;

-- Begin a call that nobody has begun: open its task's try 0, and note that the tool is about to run. NULL if that is done, else
-- why not: `not_allowed` (the asking task is over, or the tool is not allowed as `sha256` any more), `suspended`, `recorded` (the
-- call is on record), `too_many` (the asking task has begun `max_calls` in all its tries).
DROP FUNCTION flotilla.begin_call_at_once(text, text, integer, text, text, text, text, text, bytea, bytea, text, jsonb,
    double precision);
CREATE FUNCTION flotilla.begin_call_at_once(tenant text, task text, try integer, secret text, call text, of_server text,
    of_tool text, sha256 text, call_secret_hash bytea, args bytea, of_events text, shown jsonb, claim_s double precision,
    max_calls integer)
    RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asking record;
BEGIN
    SELECT a.* INTO asking FROM flotilla.asking_task(tenant, task, try, secret, call, of_server, of_tool) AS a;
    IF NOT FOUND OR asking.allowed_sha256 IS DISTINCT FROM begin_call_at_once.sha256 THEN
        RETURN 'not_allowed';
    END IF;
    IF EXISTS (SELECT FROM flotilla_ops.tenants AS t
               WHERE t.tenant_id = tenant AND t.suspended_at IS NOT NULL AND NOT t.finishes_runs) THEN
        RETURN 'suspended';
    END IF;
    -- Calls of one task that are begun at the same moment wait here for each other, so that the count is exact; and for who
    -- closes the task, so that none is begun after that.
    PERFORM FROM flotilla.delegations AS d
    WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open' FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'not_allowed';
    END IF;
    IF EXISTS (SELECT FROM flotilla.agent_tasks AS k WHERE k.tenant_id = tenant AND k.task_id = call) THEN
        RETURN 'recorded';
    END IF;
    IF (SELECT sum(d.calls_at_once) FROM flotilla.delegations AS d
        WHERE d.tenant_id = tenant AND d.task_id = task) >= max_calls THEN
        RETURN 'too_many';
    END IF;
    INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
    VALUES (tenant, call, 'mcp', asking.session_id, asking.run_id, 'queued', 0)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'recorded';
    END IF;
    UPDATE flotilla.delegations AS d SET calls_at_once = d.calls_at_once + 1
    WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try;
    INSERT INTO flotilla.delegations (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id,
        principal, workflow_id, workflow_run_id, activity_id, deadline, secret_hash, input_from)
    VALUES (tenant, call, 0, call, 0, 'mcp', '{}', asking.session_id, asking.run_id, asking.principal, '', '', '',
        asking.deadline, call_secret_hash, '');
    INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
        called, expires_at)
    VALUES (tenant, call, of_server || '.' || of_tool, args, 0, 1, of_events, asking.session_id, 'mcp', shown,
        clock_timestamp() + make_interval(secs => claim_s));
    RETURN NULL;
END
$$;
ALTER FUNCTION flotilla.begin_call_at_once(text, text, integer, text, text, text, text, text, bytea, bytea, text, jsonb,
    double precision, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.begin_call_at_once(text, text, integer, text, text, text, text, text, bytea, bytea, text, jsonb,
    double precision, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.begin_call_at_once(text, text, integer, text, text, text, text, text, bytea, bytea, text,
    jsonb, double precision, integer) TO flotilla_agent;
