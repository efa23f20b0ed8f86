-- Whose key encrypts what Temporal keeps of a workflow: that of the session that its row names.
CREATE INDEX runs_by_workflow_id ON flotilla.runs (workflow_id);
CREATE INDEX actions_by_workflow_id ON flotilla.actions (workflow_id);
CREATE INDEX orders_by_workflow_id ON flotilla.orders (workflow_id);
CREATE INDEX pipelines_by_workflow_id ON flotilla.pipelines (workflow_id);
CREATE FUNCTION flotilla.sessions_of_workflow(workflow text) RETURNS TABLE (tenant_id text, session_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT r.tenant_id, r.session_id FROM flotilla.runs AS r WHERE r.workflow_id = workflow
    UNION SELECT a.tenant_id, a.session_id FROM flotilla.actions AS a WHERE a.workflow_id = workflow
    UNION SELECT o.tenant_id, o.session_id FROM flotilla.orders AS o WHERE o.workflow_id = workflow
    UNION SELECT p.tenant_id, p.session_id FROM flotilla.pipelines AS p WHERE p.workflow_id = workflow
    LIMIT 2
    $$;
ALTER FUNCTION flotilla.sessions_of_workflow(text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.sessions_of_workflow(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.sessions_of_workflow(text) TO flotilla_gateway, flotilla_worker, flotilla_app;

-- Nothing new begins in a session whose key was destroyed, by an erasure or by retention.
CREATE FUNCTION flotilla.is_erased_session(tenant text, session text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT EXISTS (
        SELECT FROM flotilla.session_keys AS k
        JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
        WHERE k.tenant_id = tenant AND k.session_id = session AND tenant = flotilla_ops.current_tenant()
          AND (k.wrapped_key IS NULL OR p.wrapped_key IS NULL))
    $$;
ALTER FUNCTION flotilla.is_erased_session(text, text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.is_erased_session(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.is_erased_session(text, text)
    TO flotilla_gateway, flotilla_worker, flotilla_agent, flotilla_app, flotilla_audit;
