-- What the worker's leader takes up again is encrypted with the key of its session: the functions name it.
DROP FUNCTION flotilla.undelivered_run_events(interval, integer);
CREATE FUNCTION flotilla.undelivered_run_events(older_than interval, at_most integer)
    RETURNS TABLE (tenant_id text, run_id text, event_id text, name text, data jsonb, workflow_id text, session_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT e.tenant_id, e.run_id, e.event_id, e.name, e.data, r.workflow_id, r.session_id
    FROM flotilla.run_events AS e JOIN flotilla.runs AS r USING (tenant_id, run_id)
    WHERE e.delivered_at IS NULL AND e.created_at < now() - older_than
      AND r.status IN ('pending', 'running', 'interrupted')
    ORDER BY e.created_at LIMIT at_most
    $$;
DROP FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]);
-- As in 0089, with the session.
CREATE FUNCTION flotilla.take_run_notices(at_most integer, per_receiver integer, lease interval, busy text[])
    RETURNS TABLE (tenant_id text, run_id text, number integer, delivery_id text, url text, secret_ref text, body bytea,
                   attempts integer, created_at timestamptz, token text, session_id text)
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
    FROM chosen AS c JOIN flotilla.runs AS r ON r.tenant_id = c.tenant_id AND r.run_id = c.run_id
    WHERE n.tenant_id = c.tenant_id AND n.run_id = c.run_id AND n.number = c.number
    RETURNING n.tenant_id, n.run_id, n.number, n.delivery_id, n.url, n.secret_ref, n.body, n.attempts, n.created_at,
        n.token, r.session_id
    $$;
DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.undelivered_run_events(interval, integer)',
        'flotilla.take_run_notices(integer, integer, interval, text[])']
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_worker', signature);
    END LOOP;
END
$$;
-- A ciphertext is bound to its row: agents read earlier turns with their names.
GRANT SELECT (interaction_id) ON flotilla.interactions TO flotilla_agent;
