-- What is open in a session whose key was destroyed ends: nobody can read it any more, so nothing else will end it.

-- Since when the session's key is destroyed; NULL where it is not, or there is none.
CREATE FUNCTION flotilla.erased_since(tenant text, session text) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(p.erased_at, s.expired_at, '-infinity') FROM flotilla.session_keys AS k
    JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    JOIN flotilla.sessions AS s ON s.tenant_id = k.tenant_id AND s.session_id = k.session_id
    WHERE k.tenant_id = tenant AND k.session_id = session AND (k.wrapped_key IS NULL OR p.wrapped_key IS NULL)
    $$;

-- Open work of such sessions, of all tenants but those that are deleted, whose work ends otherwise. In no order, so that what
-- fails keeps nothing else waiting. `is_stuck` for what is open although it has had its time to end.
CREATE FUNCTION flotilla.work_of_erased_sessions(patience interval, at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, is_stuck boolean)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT w.kind, w.tenant_id, w.id, w.workflow_id, greatest(w.created_at, e.since) < now() - patience
    FROM (
        SELECT 'run', r.tenant_id, r.session_id, r.run_id, r.workflow_id, r.created_at FROM flotilla.runs AS r
        WHERE r.status IN ('pending', 'running', 'interrupted')
        UNION ALL
        SELECT 'action', a.tenant_id, a.session_id, a.action_id, a.workflow_id, a.created_at FROM flotilla.actions AS a
        WHERE a.finished_at IS NULL
        UNION ALL
        SELECT 'order', o.tenant_id, o.session_id, o.order_id, o.workflow_id, o.created_at FROM flotilla.orders AS o
        WHERE o.finished_at IS NULL
        UNION ALL
        SELECT 'task', p.tenant_id, p.session_id, p.task_id, p.workflow_id, p.created_at FROM flotilla.pipelines AS p
        WHERE p.finished_at IS NULL
    ) AS w (kind, tenant_id, session_id, id, workflow_id, created_at)
    CROSS JOIN LATERAL flotilla.erased_since(w.tenant_id, w.session_id) AS e (since)
    WHERE e.since IS NOT NULL AND NOT EXISTS (
        SELECT FROM flotilla_ops.tenants AS t WHERE t.tenant_id = w.tenant_id AND t.deletion_confirmed_at IS NOT NULL)
    ORDER BY random() LIMIT at_most
    $$;

-- Whether no workflow may be started in the session: its tenant is suspended, or its key is destroyed.
CREATE FUNCTION flotilla.may_not_start(tenant text, session text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT flotilla_ops.is_suspended(tenant) OR flotilla.erased_since(tenant, session) IS NOT NULL $$;
-- As before, but that nothing of an erased session is started, either.
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
           AND NOT (unstarted AND flotilla.may_not_start(r.tenant_id, r.session_id))
         ORDER BY r.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'action', a.tenant_id, a.action_id, a.workflow_id, a.request, a.traceparent, a.created_at
         FROM flotilla.actions AS a
         WHERE a.finished_at IS NULL AND (a.status = 'pending') = unstarted
           AND a.created_at < now() - older_than AND a.created_at > after
           AND NOT (unstarted AND flotilla.may_not_start(a.tenant_id, a.session_id))
         ORDER BY a.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'order', o.tenant_id, o.order_id, o.workflow_id, o.request, o.traceparent, o.created_at
         FROM flotilla.orders AS o
         WHERE o.finished_at IS NULL AND (o.started_at IS NULL) = unstarted
           AND o.created_at < now() - older_than AND o.created_at > after
           AND NOT (unstarted AND flotilla.may_not_start(o.tenant_id, o.session_id))
         ORDER BY o.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'task', p.tenant_id, p.task_id, p.workflow_id, p.request, p.traceparent, p.created_at
         FROM flotilla.pipelines AS p
         WHERE p.finished_at IS NULL AND (p.status = 'pending') = unstarted
           AND p.created_at < now() - older_than AND p.created_at > after
           AND NOT (unstarted AND flotilla.may_not_start(p.tenant_id, p.session_id))
         ORDER BY p.created_at LIMIT at_most)
    ) AS work (kind, tenant_id, id, workflow_id, request, traceparent, created_at)
    ORDER BY created_at LIMIT at_most
    $$;
CREATE OR REPLACE FUNCTION flotilla.opened_runs(at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, request jsonb, traceparent text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT 'run', r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent FROM flotilla.runs AS r
    WHERE r.status = 'pending' AND r.opened_seq IS NOT NULL AND NOT flotilla.may_not_start(r.tenant_id, r.session_id)
    ORDER BY r.created_at LIMIT at_most
    $$;

-- As before, but with the person's schedules.
CREATE OR REPLACE FUNCTION flotilla.confirm_erasure(tenant text, erasure text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
    refusal text;
BEGIN
    SELECT e.* INTO asked FROM flotilla.erasures AS e
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure AND tenant = flotilla_ops.current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF asked.confirmed_at IS NOT NULL THEN
        RETURN 'confirmed';
    ELSIF asked.requested_by = who THEN
        RETURN 'same';
    END IF;
    PERFORM flotilla_ops.lock_person(tenant, asked.person);
    -- Sessions that get their keys at the same time are waited for, or find that this one is destroyed.
    PERFORM FROM flotilla.person_keys AS p
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL FOR UPDATE;
    IF EXISTS (SELECT FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant AND h.person = asked.person) THEN
        RETURN 'held';
    END IF;
    refusal := flotilla.note_confirmation(tenant, erasure, who, asked.confirmations_needed);
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    INSERT INTO flotilla.erasure_sessions (tenant_id, erasure_id, session_id)
    SELECT tenant, erasure, k.session_id FROM flotilla.session_keys AS k
    JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    WHERE k.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    UPDATE flotilla.person_keys AS p SET wrapped_key = NULL, erased_at = now()
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    DELETE FROM flotilla.mcp_calls AS c USING flotilla.erasure_sessions AS s
    WHERE s.tenant_id = tenant AND s.erasure_id = erasure AND c.tenant_id = tenant AND c.session_id = s.session_id;
    -- Their text is in clear: row and Temporal's schedule go, by the worker's leader.
    UPDATE flotilla.schedules AS s SET deleted_at = now(), generation = generation + 1, updated_at = now()
    WHERE s.tenant_id = tenant AND flotilla_ops.person_of(s.owner, s.user_id) = asked.person AND s.deleted_at IS NULL;
    UPDATE flotilla.erasures AS e SET confirmed_by = who, confirmed_at = now()
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure;
    RETURN 'destroyed';
END
$$;
DROP FUNCTION flotilla.erasure_plan(text, text);
-- As in 0092, and what else would end: open tasks, actions and orders, and schedules, whose text is in clear.
CREATE FUNCTION flotilla.erasure_plan(tenant text, subject text)
    RETURNS TABLE (encrypted_sessions bigint, clear_sessions bigint, open_runs bigint, other_open_work bigint,
                   schedules bigint, held_for text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH theirs AS (
        SELECT s.session_id, k.session_id IS NOT NULL AS is_encrypted
        FROM flotilla.sessions AS s
        LEFT JOIN flotilla.session_keys AS k ON k.tenant_id = s.tenant_id AND k.session_id = s.session_id
        LEFT JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
        WHERE s.tenant_id = tenant AND tenant = flotilla_ops.current_tenant()
          AND coalesce(p.person, flotilla_ops.person_of(s.owner, s.user_id)) = subject
          AND (p.key_id IS NULL OR p.erased_at IS NULL)
    ), encrypted AS (SELECT t.session_id FROM theirs AS t WHERE t.is_encrypted)
    SELECT count(*) FILTER (WHERE t.is_encrypted), count(*) FILTER (WHERE NOT t.is_encrypted),
        (SELECT count(*) FROM flotilla.runs AS r WHERE r.tenant_id = tenant AND r.session_id IN (SELECT session_id FROM encrypted)
         AND r.status IN ('queued', 'pending', 'running', 'interrupted')),
        (SELECT count(*) FROM flotilla.actions AS a WHERE a.tenant_id = tenant AND a.finished_at IS NULL
         AND a.session_id IN (SELECT session_id FROM encrypted))
        + (SELECT count(*) FROM flotilla.orders AS o WHERE o.tenant_id = tenant AND o.finished_at IS NULL
           AND o.session_id IN (SELECT session_id FROM encrypted))
        + (SELECT count(*) FROM flotilla.pipelines AS w WHERE w.tenant_id = tenant AND w.finished_at IS NULL
           AND w.session_id IN (SELECT session_id FROM encrypted)),
        (SELECT count(*) FROM flotilla.schedules AS c WHERE c.tenant_id = tenant AND c.deleted_at IS NULL
         AND tenant = flotilla_ops.current_tenant() AND flotilla_ops.person_of(c.owner, c.user_id) = subject),
        (SELECT h.reason FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant AND h.person = subject
         AND tenant = flotilla_ops.current_tenant())
    FROM theirs AS t
    $$;

-- As before, and why; also those that would go on in a session whose key is destroyed, or that is expired.
DROP FUNCTION flotilla.orphaned_schedules(integer);
CREATE FUNCTION flotilla.orphaned_schedules(at_most integer) RETURNS TABLE (tenant_id text, schedule_id text, key_id text, why text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT o.tenant_id, o.schedule_id, o.key_id, o.why FROM (
        SELECT s.tenant_id, s.schedule_id, s.key_id, 'key ' || s.key_id || ' of its maker is revoked'
        FROM flotilla.schedules AS s
        JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
        WHERE NOT s.paused AND s.deleted_at IS NULL AND (k.revoked_at IS NOT NULL OR k.expires_at < now())
        UNION ALL
        SELECT s.tenant_id, s.schedule_id, s.key_id, 'the data of its session was erased'
        FROM flotilla.schedules AS s
        JOIN flotilla.sessions AS n ON n.tenant_id = s.tenant_id AND n.session_id = s.request ->> 'session_id'
        WHERE NOT s.paused AND s.deleted_at IS NULL
          AND (n.expired_at IS NOT NULL OR flotilla.erased_since(n.tenant_id, n.session_id) IS NOT NULL)
    ) AS o (tenant_id, schedule_id, key_id, why) LIMIT at_most
    $$;

-- As in 0115, and the session's tasks and what webhooks were sent of its actions.
CREATE OR REPLACE FUNCTION flotilla.expire_session(tenant text, session text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    before CONSTANT timestamptz := flotilla.kept_since(tenant, 'sessions');
    target text;
BEGIN
    IF before IS NULL OR tenant IS DISTINCT FROM flotilla_ops.current_tenant() THEN
        RETURN false;
    END IF;
    PERFORM flotilla_ops.lock_person(tenant, '*');
    PERFORM FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = session FOR UPDATE;
    IF NOT EXISTS (SELECT FROM flotilla.expired_rows(tenant, 'sessions', before, 1, false, session)) THEN
        RETURN false;
    END IF;
    PERFORM flotilla.delete_runs(tenant, ARRAY(
        SELECT r.run_id FROM flotilla.runs AS r WHERE r.tenant_id = tenant AND r.session_id = session));
    FOREACH target IN ARRAY ARRAY['interactions', 'agent_actions', 'agent_tasks', 'llm_calls', 'tool_calls', 'dead_letters',
        'mcp_calls', 'delegations', 'pipelines']
    LOOP
        EXECUTE format('DELETE FROM flotilla.%I WHERE tenant_id = $1 AND session_id = $2', target) USING tenant, session;
    END LOOP;
    DELETE FROM flotilla.webhook_deliveries AS d USING flotilla.actions AS a
    WHERE d.tenant_id = tenant AND a.tenant_id = tenant AND a.session_id = session AND d.approval_id = a.action_id;
    UPDATE flotilla.session_keys AS k SET wrapped_key = NULL WHERE k.tenant_id = tenant AND k.session_id = session;
    UPDATE flotilla.sessions AS s SET expired_at = now(), metadata = '{}'
    WHERE s.tenant_id = tenant AND s.session_id = session;
    RETURN true;
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.erased_since(text, text)', 'flotilla.work_of_erased_sessions(interval, integer)',
        'flotilla.may_not_start(text, text)', 'flotilla.erasure_plan(text, text)', 'flotilla.orphaned_schedules(integer)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
SELECT flotilla_ops.open_to('flotilla.webhook_deliveries', 'flotilla_definer')
WHERE NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'flotilla.webhook_deliveries'::regclass
                  AND polname = 'flotilla_definer_all');
GRANT SELECT, DELETE ON flotilla.webhook_deliveries, flotilla.pipelines TO flotilla_definer;
GRANT UPDATE (deleted_at, generation, updated_at) ON flotilla.schedules TO flotilla_definer;
GRANT EXECUTE ON FUNCTION flotilla.erasure_plan(text, text) TO flotilla_gateway;
GRANT EXECUTE ON FUNCTION flotilla.work_of_erased_sessions(interval, integer), flotilla.orphaned_schedules(integer)
    TO flotilla_worker;
