-- Tenants as operators see them. One without a row is active: credentials that name a tenant are enough for it to be there.
CREATE TABLE flotilla_ops.tenants (
    tenant_id text PRIMARY KEY,
    note text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    suspended_by text,
    suspended_at timestamptz,
    suspended_for text,
    -- What is under way is not held, but goes on to its end.
    finishes_runs boolean NOT NULL DEFAULT false,
    CHECK ((suspended_at IS NULL) = (suspended_by IS NULL) AND (suspended_at IS NULL) = (suspended_for IS NULL))
);
CREATE INDEX tenants_suspended ON flotilla_ops.tenants (tenant_id) WHERE suspended_at IS NOT NULL;
ALTER TABLE flotilla_ops.tenants ENABLE ROW LEVEL SECURITY;
-- Whoever asks the gateway is of the operator's tenant: it checks that before it looks here.
CREATE POLICY gateway ON flotilla_ops.tenants TO flotilla_gateway, flotilla_app USING (true);
CREATE POLICY suspension ON flotilla_ops.tenants FOR SELECT TO flotilla_worker, flotilla_definer USING (true);
GRANT SELECT, INSERT ON flotilla_ops.tenants TO flotilla_gateway, flotilla_app;
GRANT UPDATE (note, suspended_by, suspended_at, suspended_for, finishes_runs) ON flotilla_ops.tenants TO flotilla_gateway, flotilla_app;
GRANT SELECT ON flotilla_ops.tenants TO flotilla_worker, flotilla_definer;

-- Whether a tenant's requests are refused and its work waits.
CREATE FUNCTION flotilla_ops.is_suspended(tenant text) RETURNS boolean
    LANGUAGE sql STABLE
    AS $$ SELECT EXISTS (SELECT FROM flotilla_ops.tenants AS t WHERE t.tenant_id = tenant AND t.suspended_at IS NOT NULL) $$;

-- The tenants after `after` that have a row, a person, a key or a session, in order.
CREATE FUNCTION flotilla.known_tenants(after text, at_most integer) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE known AS (
        SELECT after AS tenant_id, 0 AS number
        UNION ALL
        SELECT (SELECT least(
            (SELECT min(t.tenant_id) FROM flotilla_ops.tenants AS t WHERE t.tenant_id > k.tenant_id),
            (SELECT min(p.tenant_id) FROM flotilla.people AS p WHERE p.tenant_id > k.tenant_id),
            (SELECT min(a.tenant_id) FROM flotilla.api_keys AS a WHERE a.tenant_id > k.tenant_id),
            (SELECT min(s.tenant_id) FROM flotilla.sessions AS s WHERE s.tenant_id > k.tenant_id))), k.number + 1
        FROM known AS k WHERE k.tenant_id IS NOT NULL AND k.number < at_most
    )
    SELECT tenant_id FROM known WHERE number > 0 AND tenant_id IS NOT NULL ORDER BY number
    $$;
ALTER FUNCTION flotilla.known_tenants(text, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.known_tenants(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.known_tenants(text, integer) TO flotilla_gateway, flotilla_app;
SELECT flotilla_ops.open_to(t, 'flotilla_definer')
FROM unnest(ARRAY['flotilla.people', 'flotilla.api_keys', 'flotilla.sessions']::regclass[]) AS t
WHERE NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = t AND polname = 'flotilla_definer_all');
GRANT SELECT ON flotilla.people, flotilla.api_keys, flotilla.sessions TO flotilla_definer;

-- What follows is as before, but that nothing of a suspended tenant is started: it waits where it is.
CREATE OR REPLACE FUNCTION flotilla.unfinished_work(older_than interval, after timestamptz, unstarted boolean, at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, request jsonb, traceparent text,
                   created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT * FROM (
        (SELECT 'run', r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent, r.created_at
         FROM flotilla.runs AS r
         WHERE r.status IN ('pending', 'running', 'interrupted') AND (r.status = 'pending') = unstarted
           AND r.created_at < now() - older_than AND r.created_at > after
           AND NOT (unstarted AND flotilla_ops.is_suspended(r.tenant_id))
         ORDER BY r.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'action', a.tenant_id, a.action_id, a.workflow_id, a.request, a.traceparent, a.created_at
         FROM flotilla.actions AS a
         WHERE a.finished_at IS NULL AND (a.status = 'pending') = unstarted
           AND a.created_at < now() - older_than AND a.created_at > after
           AND NOT (unstarted AND flotilla_ops.is_suspended(a.tenant_id))
         ORDER BY a.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'order', o.tenant_id, o.order_id, o.workflow_id, o.request, o.traceparent, o.created_at
         FROM flotilla.orders AS o
         WHERE o.finished_at IS NULL AND (o.started_at IS NULL) = unstarted
           AND o.created_at < now() - older_than AND o.created_at > after
           AND NOT (unstarted AND flotilla_ops.is_suspended(o.tenant_id))
         ORDER BY o.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'task', p.tenant_id, p.task_id, p.workflow_id, p.request, p.traceparent, p.created_at
         FROM flotilla.pipelines AS p
         WHERE p.finished_at IS NULL AND (p.status = 'pending') = unstarted
           AND p.created_at < now() - older_than AND p.created_at > after
           AND NOT (unstarted AND flotilla_ops.is_suspended(p.tenant_id))
         ORDER BY p.created_at LIMIT at_most)
    ) AS work (kind, tenant_id, id, workflow_id, request, traceparent, created_at)
    ORDER BY created_at LIMIT at_most
    $$;

CREATE OR REPLACE FUNCTION flotilla.opened_runs(at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, request jsonb, traceparent text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT 'run', r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent FROM flotilla.runs AS r
    WHERE r.status = 'pending' AND r.opened_seq IS NOT NULL AND NOT flotilla_ops.is_suspended(r.tenant_id)
    ORDER BY r.created_at LIMIT at_most
    $$;

CREATE OR REPLACE FUNCTION flotilla.waiting_sessions(at_most integer)
    RETURNS TABLE (tenant_id text, session_id text, active_run_id text, active_workflow_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT q.tenant_id, q.session_id, a.run_id, a.workflow_id
    FROM (SELECT w.tenant_id, w.session_id, bool_or(w.if_active <> 'enqueue') AS interrupts
          FROM flotilla.runs AS w WHERE w.status = 'queued' AND NOT flotilla_ops.is_suspended(w.tenant_id)
          GROUP BY w.tenant_id, w.session_id) AS q
    LEFT JOIN flotilla.runs AS a ON a.tenant_id = q.tenant_id AND a.session_id = q.session_id
        AND a.status IN ('pending', 'running', 'interrupted')
    WHERE a.run_id IS NULL OR q.interrupts
    ORDER BY q.tenant_id, q.session_id LIMIT at_most
    $$;

-- Until Temporal has paused the schedules of a suspended tenant, they start nothing either.
CREATE OR REPLACE FUNCTION flotilla.firing_schedule(tenant text, schedule text)
    RETURNS TABLE (user_id text, acted_by text, person text, service text, owner text, names text[], sees_all boolean,
                   visibility text, metadata jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.user_id, s.acted_by, s.person, s.service, s.owner, s.names, s.sees_all, s.visibility, s.metadata
    FROM flotilla.schedules AS s
    LEFT JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
    WHERE s.tenant_id = tenant AND tenant = flotilla_ops.current_tenant() AND s.schedule_id = schedule
      AND s.deleted_at IS NULL AND NOT flotilla_ops.is_suspended(tenant)
      AND (s.key_id IS NULL OR (k.key_id IS NOT NULL AND k.revoked_at IS NULL
                                AND (k.expires_at IS NULL OR k.expires_at > now())))
    $$;
