-- Who calls, and what the gateway keeps of their requests.

-- Where the run's own events begin in its session, so that nobody reads a long session to find them.
ALTER TABLE flotilla.runs ADD COLUMN first_seq bigint;

-- Pipelines by routing slip. Their result is the last agent's, in agent_tasks.
CREATE TABLE flotilla.pipelines (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    session_id text NOT NULL,
    user_id text NOT NULL,
    workflow_id text NOT NULL,
    steps text[] NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'success', 'error', 'timeout', 'cancelled')),
    request jsonb NOT NULL,
    result_task_id text NOT NULL,
    error jsonb,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, task_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);
CREATE INDEX pipelines_active ON flotilla.pipelines (created_at) WHERE finished_at IS NULL;
SELECT flotilla_ops.open_to('flotilla.pipelines', 'flotilla_definer');
GRANT SELECT ON flotilla.pipelines TO flotilla_definer;
SELECT flotilla_ops.protect('flotilla.pipelines');
GRANT SELECT, INSERT, UPDATE ON flotilla.pipelines TO flotilla_app;

-- What nobody finished, pipelines included: their rows are closed by the worker's leader alone.
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
         ORDER BY r.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'action', a.tenant_id, a.action_id, a.workflow_id, a.request, a.traceparent, a.created_at
         FROM flotilla.actions AS a
         WHERE a.finished_at IS NULL AND (a.status = 'pending') = unstarted
           AND a.created_at < now() - older_than AND a.created_at > after
         ORDER BY a.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'order', o.tenant_id, o.order_id, o.workflow_id, o.request, o.traceparent, o.created_at
         FROM flotilla.orders AS o
         WHERE o.finished_at IS NULL AND (o.started_at IS NULL) = unstarted
           AND o.created_at < now() - older_than AND o.created_at > after
         ORDER BY o.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'task', p.tenant_id, p.task_id, p.workflow_id, p.request, p.traceparent, p.created_at
         FROM flotilla.pipelines AS p
         WHERE p.finished_at IS NULL AND (p.status = 'pending') = unstarted
           AND p.created_at < now() - older_than AND p.created_at > after
         ORDER BY p.created_at LIMIT at_most)
    ) AS work (kind, tenant_id, id, workflow_id, request, traceparent, created_at)
    ORDER BY created_at LIMIT at_most
    $$;

CREATE INDEX api_keys_by_creation ON flotilla.api_keys (tenant_id, created_at DESC, key_id);
CREATE INDEX idempotency_keys_by_age ON flotilla.idempotency_keys (created_at);

-- The same as before, with the moment at which the key stops working, so that a cache does not outlive it.
DROP FUNCTION flotilla.authenticate(bytea);
CREATE FUNCTION flotilla.authenticate(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, roles text[], is_person boolean, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT k.tenant_id, k.key_id, k.subject, k.roles, p.subject IS NOT NULL, k.expires_at
    FROM flotilla.api_keys AS k
    LEFT JOIN flotilla.people AS p ON p.tenant_id = k.tenant_id AND p.subject = k.subject
    WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    $$;

-- Forgets idempotency keys of every tenant that nobody can be retrying any more; how many it did.
SELECT flotilla_ops.open_to('flotilla.idempotency_keys', 'flotilla_definer');
GRANT SELECT, DELETE ON flotilla.idempotency_keys TO flotilla_definer;
CREATE FUNCTION flotilla.forget_idempotency_keys(older_than interval, at_most integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH gone AS (
        DELETE FROM flotilla.idempotency_keys WHERE ctid IN (
            SELECT k.ctid FROM flotilla.idempotency_keys AS k
            WHERE k.created_at < now() - older_than ORDER BY k.created_at LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING 1
    )
    SELECT count(*) FROM gone
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.authenticate(bytea)',
                                     'flotilla.forget_idempotency_keys(interval, integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_app', signature);
    END LOOP;
END
$$;

-- The signed checkpoints of all partitions, newest first: hashes only. `place` tells those of one instant apart.
CREATE FUNCTION audit.newest_checkpoints(before_time timestamptz, before_place text, at_most integer)
    RETURNS TABLE (place text, statement bytea, signature bytea, key_id text, created_at timestamptz,
                   published_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT p.place, c.statement, c.signature, c.key_id, c.created_at, c.published_at
    FROM audit.checkpoints AS c,
        LATERAL (SELECT lpad(c.kafka_partition::text, 6, '0') || '.' || lpad(c.number::text, 19, '0') AS place) AS p
    WHERE before_time IS NULL OR (c.created_at, p.place) < (before_time, before_place)
    ORDER BY c.created_at DESC, p.place DESC LIMIT at_most
    $$;
ALTER FUNCTION audit.newest_checkpoints(timestamptz, text, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.newest_checkpoints(timestamptz, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.newest_checkpoints(timestamptz, text, integer) TO flotilla_app;
CREATE INDEX checkpoints_by_creation ON audit.checkpoints (created_at DESC);
