-- Calls of MCP tools that an agent asks the tool gateway for while it holds its task. Such a call is try 0 of the task that
-- the worker opens for it otherwise, under the same id: whatever does not end here, try 1 goes on with. Only the tool gateway
-- may use these functions, with the secret of the asking task.

GRANT INSERT, UPDATE (state, closed_at) ON flotilla.delegations TO flotilla_definer;
GRANT INSERT, UPDATE (outcome, result, escaped, finished_at, recorded) ON flotilla.tool_calls TO flotilla_definer;

-- The asking task, and the hash that its tenant allowed of the tool; no row where the secret opens no task.
CREATE FUNCTION flotilla.asking_task(tenant text, task text, try integer, secret text, call text, of_server text, of_tool text)
    RETURNS TABLE (session_id text, run_id text, principal text, deadline timestamptz, allowed_sha256 text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.session_id, d.run_id, d.principal, d.deadline, (
        SELECT a.sha256 FROM flotilla.allowed_tools AS a
        WHERE a.tenant_id = tenant AND a.server = of_server AND a.tool = of_tool)
    FROM flotilla.delegations AS d
    WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open' AND now() < d.deadline
      AND d.secret_hash = sha256(convert_to(secret, 'UTF8')) AND starts_with(call, replace(task, '~', '-') || '.mcp.')
      AND flotilla_ops.is_agent('mcp')
    $$;

-- Begin a call that nobody has begun: open its task's try 0, and note that the tool is about to run. Whether that is done:
-- not where the call is on record, the asking task is over, or the tool is not allowed as `sha256` any more.
CREATE FUNCTION flotilla.begin_call_at_once(tenant text, task text, try integer, secret text, call text, of_server text,
    of_tool text, sha256 text, call_secret_hash bytea, args bytea, of_events text, shown jsonb, claim_s double precision)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asking record;
BEGIN
    SELECT a.* INTO asking FROM flotilla.asking_task(tenant, task, try, secret, call, of_server, of_tool) AS a;
    IF NOT FOUND OR asking.allowed_sha256 IS DISTINCT FROM begin_call_at_once.sha256 THEN
        RETURN false;
    END IF;
    INSERT INTO flotilla.agent_tasks (tenant_id, task_id, agent, session_id, run_id, status, attempt)
    VALUES (tenant, call, 'mcp', asking.session_id, asking.run_id, 'queued', 0)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO flotilla.delegations (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id,
        principal, workflow_id, workflow_run_id, activity_id, deadline, secret_hash, input_from)
    VALUES (tenant, call, 0, call, 0, 'mcp', '{}', asking.session_id, asking.run_id, asking.principal, '', '', '',
        asking.deadline, call_secret_hash, '');
    INSERT INTO flotilla.tool_calls (tenant_id, task_id, tool, args_hash, occurrence, start_no, call_id, session_id, agent,
        called, expires_at)
    VALUES (tenant, call, of_server || '.' || of_tool, args, 0, 1, of_events, asking.session_id, 'mcp', shown,
        clock_timestamp() + make_interval(secs => claim_s));
    RETURN true;
END
$$;

-- Store what a call returned and answer its task, with its actions and events, all or nothing. Where try 1 has answered
-- meanwhile, or has calls to record, only the result is stored, which that try finds. Whether the task has this answer.
CREATE FUNCTION flotilla.end_call_at_once(tenant text, call text, secret text, tool text, args bytea, returned jsonb,
    escaped text[], answer jsonb, duration_ms double precision, kinds text[], payloads text[], ids uuid[], heads bytea[],
    tails bytea[], trace text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    PERFORM flotilla_ops.act_for(tenant, call, 0, secret);
    UPDATE flotilla.tool_calls AS c SET outcome = 'returned', result = returned, escaped = end_call_at_once.escaped,
        finished_at = clock_timestamp(), recorded = true
    FROM flotilla.held_task() AS h
    WHERE h.may_answer AND h.agent = 'mcp' AND c.tenant_id = h.tenant_id AND c.task_id = h.task_id
      AND c.tool = end_call_at_once.tool AND c.args_hash = args AND c.occurrence = 0 AND c.start_no = 1
      AND c.outcome IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF flotilla.finish_task(tenant, call, 0, secret, 'done', NULL, answer, NULL, duration_ms, kinds, payloads, ids, heads,
                            tails, trace) <> 'done' THEN
        UPDATE flotilla.tool_calls AS c SET recorded = false
        WHERE c.tenant_id = tenant AND c.task_id = call AND c.tool = end_call_at_once.tool AND c.args_hash = args
          AND c.occurrence = 0 AND c.start_no = 1;
        RETURN false;
    END IF;
    UPDATE flotilla.delegations AS d SET state = 'done', closed_at = now()
    WHERE d.tenant_id = tenant AND d.task_id = call AND d.attempt = 0 AND d.state = 'open';
    RETURN true;
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.asking_task(text, text, integer, text, text, text, text)',
        'flotilla.begin_call_at_once(text, text, integer, text, text, text, text, text, bytea, bytea, text, jsonb, '
            'double precision)',
        'flotilla.end_call_at_once(text, text, text, text, bytea, jsonb, text[], jsonb, double precision, text[], text[], '
            'uuid[], bytea[], bytea[], text)']
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_agent', signature);
    END LOOP;
END
$$;
