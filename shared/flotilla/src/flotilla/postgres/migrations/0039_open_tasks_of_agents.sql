-- Up to `at_most` tasks of all tenants that `of_agent` had been given by `at` and has not answered. Rows are looked at by
-- when they were written, a day back: enough for all but the longest tasks, and small however long the history is.
CREATE INDEX delegations_by_age ON flotilla.delegations USING brin (opened_at);

CREATE FUNCTION flotilla.open_tasks_of(of_agent text, at timestamptz, at_most integer)
    RETURNS TABLE (tenant_id text, task_id text, attempt integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT d.tenant_id, d.task_id, d.attempt FROM flotilla.delegations AS d
    WHERE d.opened_at > now() - interval '1 day' AND d.agent = of_agent AND d.state = 'open' AND d.issued_at <= at
    LIMIT at_most
    $$;
ALTER FUNCTION flotilla.open_tasks_of(text, timestamptz, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.open_tasks_of(text, timestamptz, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.open_tasks_of(text, timestamptz, integer) TO flotilla_app, flotilla_worker;
