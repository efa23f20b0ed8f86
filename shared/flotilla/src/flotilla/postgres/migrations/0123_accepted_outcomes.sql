-- What an administrator states about a call of an MCP tool that was begun and gave no answer: it had its effect, and this
-- came of it. Of the call that the open approval `approval` asks about, and only while nobody runs it. Returns its tool; NULL
-- where there is no such call.
GRANT UPDATE (error) ON flotilla.tool_calls TO flotilla_definer;

CREATE FUNCTION flotilla.accept_call_outcome(approval text, outcome_of_call jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    named text;
BEGIN
    UPDATE flotilla.tool_calls AS c SET outcome = 'returned', result = outcome_of_call, error = NULL,
        finished_at = clock_timestamp()
    FROM flotilla.actions AS a
    WHERE a.tenant_id = flotilla_ops.current_tenant() AND a.action_id = approval AND a.finished_at IS NULL
      AND c.tenant_id = a.tenant_id AND c.task_id = a.request ->> 'task_id' AND c.agent = 'mcp'
      AND a.action = 'mcp.' || c.tool
      AND c.start_no::text = substring(approval FROM '\.again\.([0-9]+)$')
      AND c.outcome IS DISTINCT FROM 'returned' AND (c.outcome IS NOT NULL OR c.expires_at < clock_timestamp())
      AND NOT EXISTS (
          SELECT FROM flotilla.tool_calls AS o WHERE o.tenant_id = c.tenant_id AND o.task_id = c.task_id
              AND (o.outcome = 'returned' OR o.start_no > c.start_no))
    RETURNING c.tool INTO named;
    RETURN named;
END
$$;
ALTER FUNCTION flotilla.accept_call_outcome(text, jsonb) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.accept_call_outcome(text, jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.accept_call_outcome(text, jsonb) TO flotilla_gateway;
