-- Events from outside for runs of workflows: stored first, then signalled, until the workflow has them.
CREATE TABLE flotilla.run_events (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    event_id text NOT NULL,
    name text NOT NULL,
    data jsonb NOT NULL,
    sent_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When Temporal took the signal; one that is signalled again is no second event to the workflow.
    delivered_at timestamptz,
    PRIMARY KEY (tenant_id, run_id, event_id),
    FOREIGN KEY (tenant_id, run_id) REFERENCES flotilla.runs
);
CREATE INDEX run_events_undelivered ON flotilla.run_events (created_at) WHERE delivered_at IS NULL;
SELECT flotilla_ops.protect('flotilla.run_events');
GRANT SELECT, INSERT, UPDATE (delivered_at) ON flotilla.run_events TO flotilla_gateway;
GRANT SELECT, UPDATE (delivered_at) ON flotilla.run_events TO flotilla_worker;
CREATE POLICY people_flotilla_gateway ON flotilla.run_events AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.runs AS r
        WHERE r.tenant_id = run_events.tenant_id AND r.run_id = run_events.run_id));

-- Those of active runs that were stored at least so long ago, oldest first.
CREATE FUNCTION flotilla.undelivered_run_events(older_than interval, at_most integer)
    RETURNS TABLE (tenant_id text, run_id text, event_id text, name text, data jsonb, workflow_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT e.tenant_id, e.run_id, e.event_id, e.name, e.data, r.workflow_id
    FROM flotilla.run_events AS e JOIN flotilla.runs AS r USING (tenant_id, run_id)
    WHERE e.delivered_at IS NULL AND e.created_at < now() - older_than
      AND r.status IN ('pending', 'running', 'interrupted')
    ORDER BY e.created_at LIMIT at_most
    $$;
SELECT flotilla_ops.open_to('flotilla.run_events', 'flotilla_definer');
GRANT SELECT ON flotilla.run_events TO flotilla_definer;
ALTER FUNCTION flotilla.undelivered_run_events(interval, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.undelivered_run_events(interval, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.undelivered_run_events(interval, integer) TO flotilla_worker;
