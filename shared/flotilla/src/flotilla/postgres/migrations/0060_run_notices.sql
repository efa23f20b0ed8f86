-- Notices of runs to other systems: written in the transaction of what they tell, delivered by the worker's leader, at
-- least once and in order for each run.
ALTER TABLE flotilla.runs
    -- The run's receiver (`flotilla.contracts.notices.Notify`); NULL: the tenant's.
    ADD COLUMN notify jsonb;
GRANT INSERT (notify) ON flotilla.runs TO flotilla_gateway;

-- The receiver of notices of runs that name none.
CREATE TABLE flotilla.tenant_notify (
    tenant_id text PRIMARY KEY,
    notify jsonb NOT NULL,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now()
);
SELECT flotilla_ops.protect('flotilla.tenant_notify');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.tenant_notify TO flotilla_gateway;
GRANT SELECT ON flotilla.tenant_notify TO flotilla_worker, flotilla_app;

CREATE TABLE flotilla.run_notices (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    -- Within the run, from 1, without gaps.
    number integer NOT NULL,
    -- Tells a receiver a repetition.
    delivery_id text NOT NULL,
    kind text NOT NULL,
    url text NOT NULL,
    secret_ref text NOT NULL,
    body bytea NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts integer NOT NULL DEFAULT 0,
    last_status_code integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- Not tried before: it was tried a moment ago, or is being tried.
    due_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    PRIMARY KEY (tenant_id, run_id, number),
    FOREIGN KEY (tenant_id, run_id) REFERENCES flotilla.runs
);
CREATE INDEX run_notices_due ON flotilla.run_notices (due_at) WHERE status = 'pending';
SELECT flotilla_ops.protect('flotilla.run_notices');
GRANT SELECT ON flotilla.run_notices TO flotilla_gateway;
GRANT SELECT, INSERT, UPDATE ON flotilla.run_notices TO flotilla_worker, flotilla_app;
CREATE POLICY people_flotilla_gateway ON flotilla.run_notices AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.runs AS r
        WHERE r.tenant_id = run_notices.tenant_id AND r.run_id = run_notices.run_id));

-- Takes notices to deliver: the oldest of each run that is due, a few for each receiver that is not `busy`. One that is
-- not answered for in `lease` is taken again.
CREATE FUNCTION flotilla.take_run_notices(at_most integer, per_receiver integer, lease interval, busy text[])
    RETURNS TABLE (tenant_id text, run_id text, number integer, delivery_id text, url text, secret_ref text, body bytea,
                   attempts integer, created_at timestamptz)
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH due AS (
        SELECT n.tenant_id, n.run_id, n.number, n.due_at,
            row_number() OVER (PARTITION BY n.tenant_id, n.url ORDER BY n.due_at) AS place
        FROM flotilla.run_notices AS n
        WHERE n.status = 'pending' AND n.due_at <= now() AND NOT n.url = ANY (busy)
          AND NOT EXISTS (SELECT FROM flotilla.run_notices AS e WHERE e.tenant_id = n.tenant_id
                          AND e.run_id = n.run_id AND e.number < n.number AND e.status = 'pending')
        ORDER BY n.due_at LIMIT 1000
    ), chosen AS (
        SELECT n.tenant_id, n.run_id, n.number FROM flotilla.run_notices AS n
        JOIN due AS d ON d.tenant_id = n.tenant_id AND d.run_id = n.run_id AND d.number = n.number
        WHERE d.place <= per_receiver AND n.status = 'pending' AND n.due_at <= now()
        ORDER BY d.due_at LIMIT at_most FOR UPDATE OF n SKIP LOCKED
    )
    UPDATE flotilla.run_notices AS n SET due_at = now() + lease
    FROM chosen AS c WHERE n.tenant_id = c.tenant_id AND n.run_id = c.run_id AND n.number = c.number
    RETURNING n.tenant_id, n.run_id, n.number, n.delivery_id, n.url, n.secret_ref, n.body, n.attempts, n.created_at
    $$;
SELECT flotilla_ops.open_to('flotilla.run_notices', 'flotilla_definer');
GRANT SELECT, UPDATE (due_at) ON flotilla.run_notices TO flotilla_definer;
ALTER FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.take_run_notices(integer, integer, interval, text[]) TO flotilla_worker;
