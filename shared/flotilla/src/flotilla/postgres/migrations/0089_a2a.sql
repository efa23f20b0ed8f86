-- A2A: who is notified of a task by its protocol, beside the run's own receiver, and tasks by their last change.
CREATE TABLE flotilla.a2a_receivers (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    -- Chosen by the client; unique within the task.
    config_id text NOT NULL,
    session_id text NOT NULL,
    url text NOT NULL,
    -- Sent with each notice as the client asked; '' sends none.
    token text NOT NULL,
    -- The name of the secret that signs.
    secret_ref text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, run_id, config_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES flotilla.runs
);
SELECT flotilla_ops.protect('flotilla.a2a_receivers');
GRANT SELECT, INSERT, DELETE ON flotilla.a2a_receivers TO flotilla_gateway;
GRANT SELECT ON flotilla.a2a_receivers TO flotilla_worker, flotilla_app;
-- As for every table that names a session (0026); who only reads the session takes nothing away.
CREATE POLICY people ON flotilla.a2a_receivers AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = a2a_receivers.tenant_id AND s.session_id = a2a_receivers.session_id))
    WITH CHECK ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = a2a_receivers.tenant_id AND s.session_id = a2a_receivers.session_id
                     AND flotilla_ops.has_access(s.visibility, s.owner, s.writers, (SELECT flotilla_ops.viewer_names()))));
CREATE POLICY people_remove ON flotilla.a2a_receivers AS RESTRICTIVE FOR DELETE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = a2a_receivers.tenant_id AND s.session_id = a2a_receivers.session_id
                     AND flotilla_ops.has_access(s.visibility, s.owner, s.writers, (SELECT flotilla_ops.viewer_names()))));

CREATE INDEX runs_by_change ON flotilla.runs
    (tenant_id, (coalesce(finished_at, started_at, created_at)) DESC, run_id DESC);

-- What the receiver gave us to send with it.
ALTER TABLE flotilla.run_notices ADD COLUMN token text NOT NULL DEFAULT '';
DROP FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]);
-- As in 0060, with the token; a run has several receivers now, each with an order of its own.
CREATE FUNCTION flotilla.take_run_notices(at_most integer, per_receiver integer, lease interval, busy text[])
    RETURNS TABLE (tenant_id text, run_id text, number integer, delivery_id text, url text, secret_ref text, body bytea,
                   attempts integer, created_at timestamptz, token text)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH due AS (
        SELECT n.tenant_id, n.run_id, n.number, n.due_at,
            row_number() OVER (PARTITION BY n.tenant_id, n.url ORDER BY n.due_at) AS place
        FROM flotilla.run_notices AS n
        WHERE n.status = 'pending' AND n.due_at <= now() AND NOT n.url = ANY (busy)
          AND NOT EXISTS (SELECT FROM flotilla.run_notices AS e WHERE e.tenant_id = n.tenant_id
                          AND e.run_id = n.run_id AND e.number < n.number AND e.url = n.url AND e.status = 'pending')
        ORDER BY n.due_at LIMIT 1000
    ), chosen AS (
        SELECT n.tenant_id, n.run_id, n.number FROM flotilla.run_notices AS n
        JOIN due AS d ON d.tenant_id = n.tenant_id AND d.run_id = n.run_id AND d.number = n.number
        WHERE d.place <= per_receiver AND n.status = 'pending' AND n.due_at <= now()
        ORDER BY d.due_at LIMIT at_most FOR UPDATE OF n SKIP LOCKED
    )
    UPDATE flotilla.run_notices AS n SET due_at = now() + lease
    FROM chosen AS c WHERE n.tenant_id = c.tenant_id AND n.run_id = c.run_id AND n.number = c.number
    RETURNING n.tenant_id, n.run_id, n.number, n.delivery_id, n.url, n.secret_ref, n.body, n.attempts, n.created_at,
        n.token
    $$;
ALTER FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) TO flotilla_worker;
