-- Runs that wait for their turn in a session: rows under the session's lock, in the order of `first_seq`. Who ends the
-- active run opens the next in the same transaction: it is `pending` then, and the worker's leader starts its workflow.
ALTER TABLE flotilla.runs
    -- What the caller wanted when another run was active: `enqueue`, `interrupt`, `rollback`; NULL where none was.
    ADD COLUMN if_active text CHECK (if_active IN ('enqueue', 'interrupt', 'rollback')),
    -- Of the first event of a run that waited, once it was opened; `first_seq` is the event that records its waiting.
    ADD COLUMN opened_seq bigint,
    DROP CONSTRAINT runs_status_check,
    ADD CONSTRAINT runs_status_check CHECK (
        status IN ('queued', 'pending', 'running', 'interrupted', 'success', 'error', 'timeout', 'cancelled'));
CREATE INDEX runs_queued ON flotilla.runs (tenant_id, session_id, first_seq) WHERE status = 'queued';

GRANT INSERT (status, if_active) ON flotilla.runs TO flotilla_gateway;
CREATE POLICY gateway_asks ON flotilla.runs AS RESTRICTIVE FOR INSERT TO flotilla_gateway
    WITH CHECK (status IN ('pending', 'queued'));
ALTER POLICY gateway_cancels ON flotilla.runs USING (status IN ('pending', 'queued'));
-- The worker rolls a session back before it opens a run that asks for that.
GRANT INSERT ON flotilla.session_rollbacks TO flotilla_worker;

-- Runs that waited and were opened, and whose workflow has not begun.
CREATE FUNCTION flotilla.opened_runs(at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, request jsonb, traceparent text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT 'run', r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent FROM flotilla.runs AS r
    WHERE r.status = 'pending' AND r.opened_seq IS NOT NULL
    ORDER BY r.created_at LIMIT at_most
    $$;

-- Sessions in which runs wait and none is active, or one that an interrupting run wants to end; `active` is NULL or that.
CREATE FUNCTION flotilla.waiting_sessions(at_most integer)
    RETURNS TABLE (tenant_id text, session_id text, active_run_id text, active_workflow_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT q.tenant_id, q.session_id, a.run_id, a.workflow_id
    FROM (SELECT w.tenant_id, w.session_id, bool_or(w.if_active <> 'enqueue') AS interrupts
          FROM flotilla.runs AS w WHERE w.status = 'queued' GROUP BY w.tenant_id, w.session_id) AS q
    LEFT JOIN flotilla.runs AS a ON a.tenant_id = q.tenant_id AND a.session_id = q.session_id
        AND a.status IN ('pending', 'running', 'interrupted')
    WHERE a.run_id IS NULL OR q.interrupts
    ORDER BY q.tenant_id, q.session_id LIMIT at_most
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.opened_runs(integer)', 'flotilla.waiting_sessions(integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_worker', signature);
    END LOOP;
END
$$;
