-- What came of the calls of MCP tools that the held task has asked for: tasks of agent `mcp` in its session, opened by the
-- worker under ids that begin with the task's own.
CREATE INDEX agent_tasks_of_mcp ON flotilla.agent_tasks (tenant_id, session_id) WHERE agent = 'mcp';
CREATE FUNCTION flotilla.mcp_answers() RETURNS TABLE (task_id text, status text, result jsonb, failure jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.task_id, t.status, t.result, t.failure FROM flotilla.held_task() AS h
    JOIN flotilla.agent_tasks AS t ON t.tenant_id = h.tenant_id AND t.session_id = h.session_id
        AND starts_with(t.task_id, replace(h.task_id, '~', '-') || '.mcp.')
    WHERE h.may_work AND t.agent = 'mcp' AND t.status IN ('done', 'failed', 'cancelled')
    $$;
ALTER FUNCTION flotilla.mcp_answers() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.mcp_answers() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.mcp_answers() TO flotilla_agent;
