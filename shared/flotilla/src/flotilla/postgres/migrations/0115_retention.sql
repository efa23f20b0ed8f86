-- Retention: what is over for longer than the tenant's policy says is deleted, but nothing of a person under a legal hold. A
-- session's key is destroyed; its row stays, and its events stay as ciphertext.

-- When what the session held was deleted.
ALTER TABLE flotilla.sessions ADD COLUMN expired_at timestamptz;
CREATE INDEX sessions_kept ON flotilla.sessions (tenant_id, created_at) WHERE expired_at IS NULL;
CREATE INDEX mcp_calls_by_time ON flotilla.mcp_calls (created_at);
CREATE INDEX dead_letters_by_time ON flotilla.dead_letters (tenant_id, created_at);

-- Who adds a hold and who deletes by age wait for each other, too.
CREATE OR REPLACE FUNCTION flotilla_ops.lock_held_person() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM flotilla_ops.lock_person(NEW.tenant_id, '*');
    PERFORM flotilla_ops.lock_person(NEW.tenant_id, NEW.person);
    RETURN NEW;
END
$$;

-- The sessions of people who are under a legal hold.
CREATE FUNCTION flotilla.held_sessions(tenant text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.session_id FROM flotilla.sessions AS s
    LEFT JOIN flotilla.session_keys AS k ON k.tenant_id = s.tenant_id AND k.session_id = s.session_id
    LEFT JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    WHERE s.tenant_id = tenant AND EXISTS (
        SELECT FROM flotilla.legal_holds AS h
        WHERE h.tenant_id = tenant AND h.person IN (p.person, flotilla_ops.person_of(s.owner, s.user_id)))
    $$;

-- The rows of a kind that are over since before then; those that are held only where they are asked for.
CREATE FUNCTION flotilla.expired_rows(tenant text, of_kind text, before timestamptz, at_most bigint, with_held boolean,
                                      only_session text DEFAULT NULL)
    RETURNS TABLE (place tid, is_held boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    held CONSTANT text[] := ARRAY(SELECT flotilla.held_sessions(tenant));
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT t.ctid, coalesce(t.session_id = ANY ($1), false) FROM (%s) AS t
        WHERE $5 OR NOT coalesce(t.session_id = ANY ($1), false) LIMIT $4
        $q$, CASE of_kind
        WHEN 'sessions' THEN $q$
            SELECT s.ctid, s.session_id FROM flotilla.sessions AS s
            WHERE s.tenant_id = $2 AND s.expired_at IS NULL AND s.created_at < $3 AND s.session_id <> 'flotilla:audit'
              AND ($6 IS NULL OR s.session_id = $6)
              AND (s.head_seq = 0 OR EXISTS (
                  SELECT FROM audit.session_events AS e WHERE e.tenant_id = s.tenant_id AND e.session_id = s.session_id
                  AND e.seq = s.head_seq AND e.occurred_at < $3))
              AND NOT EXISTS (SELECT FROM flotilla.runs AS r WHERE r.tenant_id = s.tenant_id
                  AND r.session_id = s.session_id AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
              AND NOT EXISTS (SELECT FROM flotilla.pipelines AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
              AND NOT EXISTS (SELECT FROM flotilla.actions AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
              AND NOT EXISTS (SELECT FROM flotilla.orders AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
            $q$
        WHEN 'runs' THEN $q$
            SELECT r.ctid, r.session_id FROM flotilla.runs AS r
            WHERE r.tenant_id = $2 AND r.finished_at < $3
              AND r.status NOT IN ('queued', 'pending', 'running', 'interrupted')
            $q$
        WHEN 'model_calls' THEN $q$
            SELECT c.ctid, c.session_id FROM flotilla.llm_calls AS c
            WHERE c.tenant_id = $2 AND c.created_at < $3 AND NOT EXISTS (
                SELECT FROM flotilla.runs AS r WHERE r.tenant_id = c.tenant_id AND r.run_id = c.run_id
                AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
            $q$
        WHEN 'documents' THEN $q$
            SELECT d.ctid, d.attached_to AS session_id FROM flotilla.documents AS d
            WHERE d.tenant_id = $2 AND d.updated_at < $3
            $q$
        WHEN 'dead_letters' THEN $q$
            SELECT l.ctid, l.session_id FROM flotilla.dead_letters AS l WHERE l.tenant_id = $2 AND l.created_at < $3
            $q$
        WHEN 'mcp_calls' THEN $q$
            SELECT c.ctid, c.session_id FROM flotilla.mcp_calls AS c
            WHERE c.tenant_id = $2 AND c.created_at < $3
              AND NOT EXISTS (SELECT FROM flotilla.runs AS r WHERE r.tenant_id = c.tenant_id AND r.run_id = c.call_id
                  AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
              AND NOT EXISTS (SELECT FROM flotilla.pipelines AS w
                  WHERE w.tenant_id = c.tenant_id AND w.task_id = c.call_id AND w.finished_at IS NULL)
            $q$
        END)
    USING held, tenant, before, at_most, with_held, only_session;
END
$$;

-- Since when what is over is deleted; NULL where the tenant keeps it. Calls of MCP clients, which hold no content, are kept
-- for 7 days where nothing else is said.
CREATE FUNCTION flotilla.kept_since(tenant text, of_kind text) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT now() - make_interval(days => coalesce(
        (SELECT p.days FROM flotilla.retention_policies AS p WHERE p.tenant_id = tenant AND p.kind = of_kind),
        CASE WHEN of_kind = 'mcp_calls' THEN 7 END))
    $$;

-- What a policy of so many days would delete now, and what it would leave for a legal hold.
CREATE FUNCTION flotilla.retention_plan(tenant text, of_kind text, of_days integer)
    RETURNS TABLE (expired bigint, held bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT count(*) FILTER (WHERE NOT r.is_held), count(*) FILTER (WHERE r.is_held)
    FROM flotilla.expired_rows(tenant, of_kind, now() - make_interval(days => of_days), 1000000000, true) AS r
    WHERE tenant = flotilla_ops.current_tenant()
    $$;

-- Everything that belongs to these runs, and they themselves.
CREATE FUNCTION flotilla.delete_runs(tenant text, runs text[]) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target text;
BEGIN
    DELETE FROM flotilla.tool_calls AS c USING flotilla.agent_tasks AS t
    WHERE t.tenant_id = tenant AND t.run_id = ANY (runs) AND c.tenant_id = tenant AND c.task_id = t.task_id;
    DELETE FROM flotilla.agent_actions AS a USING flotilla.agent_tasks AS t
    WHERE t.tenant_id = tenant AND t.run_id = ANY (runs) AND a.tenant_id = tenant AND a.task_id = t.task_id;
    DELETE FROM flotilla.mcp_calls AS c WHERE c.tenant_id = tenant AND c.is_run AND c.call_id = ANY (runs);
    FOREACH target IN ARRAY ARRAY['feedback', 'run_events', 'run_notices', 'questions', 'a2a_receivers', 'openai_requests',
        'interactions', 'llm_calls', 'publications', 'dead_letters', 'delegations', 'agent_tasks', 'runs']
    LOOP
        EXECUTE format('DELETE FROM flotilla.%I WHERE tenant_id = $1 AND run_id = ANY ($2)', target) USING tenant, runs;
    END LOOP;
END
$$;

-- Deletes what is over of a kind, by the tenant's policy; how many rows, at most so many.
CREATE FUNCTION flotilla.apply_retention(tenant text, of_kind text, at_most bigint) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    before CONSTANT timestamptz := flotilla.kept_since(tenant, of_kind);
    runs text[];
    deleted bigint := 0;
BEGIN
    IF before IS NULL OR tenant IS DISTINCT FROM flotilla_ops.current_tenant() THEN
        RETURN 0;
    END IF;
    PERFORM flotilla_ops.lock_person(tenant, '*');
    IF of_kind = 'runs' THEN
        SELECT coalesce(array_agg(r.run_id), '{}') INTO runs FROM flotilla.runs AS r WHERE r.ctid = ANY (ARRAY(
            SELECT e.place FROM flotilla.expired_rows(tenant, of_kind, before, at_most, false) AS e));
        PERFORM flotilla.delete_runs(tenant, runs);
        RETURN cardinality(runs);
    ELSIF of_kind IN ('model_calls', 'dead_letters', 'mcp_calls') THEN
        EXECUTE format('DELETE FROM flotilla.%I WHERE ctid = ANY (ARRAY(
            SELECT e.place FROM flotilla.expired_rows($1, $2, $3, $4, false) AS e))',
            CASE of_kind WHEN 'model_calls' THEN 'llm_calls' ELSE of_kind END) USING tenant, of_kind, before, at_most;
        GET DIAGNOSTICS deleted = ROW_COUNT;
    END IF;
    RETURN deleted;
END
$$;

-- Sessions that are over, for `expire_session`.
CREATE FUNCTION flotilla.sessions_to_expire(tenant text, at_most bigint) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.session_id FROM flotilla.sessions AS s WHERE s.ctid = ANY (ARRAY(
        SELECT e.place FROM flotilla.expired_rows(tenant, 'sessions', flotilla.kept_since(tenant, 'sessions'), at_most,
                                                  false) AS e))
      AND tenant = flotilla_ops.current_tenant()
    $$;
-- Destroys the session's key and deletes what the session holds; whether it did. A hold, or something new in the session, that
-- came first keeps it.
CREATE FUNCTION flotilla.expire_session(tenant text, session text) RETURNS boolean
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
        'mcp_calls', 'delegations']
    LOOP
        EXECUTE format('DELETE FROM flotilla.%I WHERE tenant_id = $1 AND session_id = $2', target) USING tenant, session;
    END LOOP;
    UPDATE flotilla.session_keys AS k SET wrapped_key = NULL WHERE k.tenant_id = tenant AND k.session_id = session;
    UPDATE flotilla.sessions AS s SET expired_at = now(), metadata = '{}'
    WHERE s.tenant_id = tenant AND s.session_id = session;
    RETURN true;
END
$$;

-- What the worker's leader has to look at.
CREATE FUNCTION flotilla.retention_work() RETURNS TABLE (tenant_id text, kind text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.tenant_id, p.kind FROM flotilla.retention_policies AS p WHERE p.kind <> 'documents'
    UNION
    SELECT DISTINCT c.tenant_id, 'mcp_calls' FROM flotilla.mcp_calls AS c WHERE c.created_at < now() - interval '1 day'
    $$;
-- Documents that are over, and attachments of sessions that are: the gateway removes them, which has the knowledge base.
CREATE FUNCTION flotilla.documents_to_expire(at_most bigint) RETURNS TABLE (tenant_id text, document_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    (SELECT d.tenant_id, d.document_id FROM flotilla.retention_policies AS p
     CROSS JOIN LATERAL flotilla.expired_rows(p.tenant_id, p.kind, flotilla.kept_since(p.tenant_id, p.kind), at_most, false)
         AS e
     JOIN flotilla.documents AS d ON d.ctid = e.place
     WHERE p.kind = 'documents' LIMIT at_most)
    UNION
    (SELECT d.tenant_id, d.document_id FROM flotilla.documents AS d
     JOIN flotilla.sessions AS s ON s.tenant_id = d.tenant_id AND s.session_id = d.attached_to
     WHERE s.expired_at IS NOT NULL LIMIT at_most)
    $$;

DO $$
DECLARE
    target regclass;
    signature text;
BEGIN
    FOREACH target IN ARRAY ARRAY[
        'flotilla.feedback', 'flotilla.run_events', 'flotilla.run_notices', 'flotilla.questions', 'flotilla.a2a_receivers',
        'flotilla.openai_requests', 'flotilla.interactions', 'flotilla.llm_calls', 'flotilla.publications',
        'flotilla.dead_letters', 'flotilla.delegations', 'flotilla.agent_tasks', 'flotilla.runs', 'flotilla.tool_calls',
        'flotilla.agent_actions', 'flotilla.mcp_calls', 'flotilla.actions', 'flotilla.orders', 'flotilla.pipelines',
        'flotilla.documents', 'audit.session_events', 'audit_next.session_events']::regclass[]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = target AND polname = 'flotilla_definer_all') THEN
            PERFORM flotilla_ops.open_to(target, 'flotilla_definer');
        END IF;
        EXECUTE format('GRANT SELECT ON %s TO flotilla_definer', target);
    END LOOP;
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.held_sessions(text)', 'flotilla.expired_rows(text, text, timestamptz, bigint, boolean, text)',
        'flotilla.kept_since(text, text)', 'flotilla.retention_plan(text, text, integer)',
        'flotilla.delete_runs(text, text[])', 'flotilla.apply_retention(text, text, bigint)',
        'flotilla.sessions_to_expire(text, bigint)', 'flotilla.expire_session(text, text)', 'flotilla.retention_work()',
        'flotilla.documents_to_expire(bigint)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
GRANT DELETE ON
    flotilla.feedback, flotilla.run_events, flotilla.run_notices, flotilla.questions, flotilla.a2a_receivers,
    flotilla.openai_requests, flotilla.interactions, flotilla.llm_calls, flotilla.publications, flotilla.dead_letters,
    flotilla.delegations, flotilla.agent_tasks, flotilla.runs, flotilla.tool_calls, flotilla.agent_actions
    TO flotilla_definer;
GRANT UPDATE (expired_at, metadata) ON flotilla.sessions TO flotilla_definer;
GRANT EXECUTE ON FUNCTION flotilla.retention_plan(text, text, integer), flotilla.documents_to_expire(bigint)
    TO flotilla_gateway;
GRANT EXECUTE ON FUNCTION flotilla.retention_work(), flotilla.apply_retention(text, text, bigint),
    flotilla.sessions_to_expire(text, bigint), flotilla.expire_session(text, text) TO flotilla_worker;
