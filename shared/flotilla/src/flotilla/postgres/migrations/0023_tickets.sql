-- What is to become of a task that carries no ticket: `waits` when a former version of the worker delegated exactly this
-- and this version has not issued a ticket yet, `superseded` once it has, else NULL: nobody of ours sent it. Only tasks
-- that were opened up to a day after this migration can be a former version's.
SELECT flotilla_ops.open_to('flotilla.agent_tasks', 'flotilla_definer');
SELECT flotilla_ops.open_to('flotilla.delegations', 'flotilla_definer');
GRANT SELECT ON flotilla.agent_tasks, flotilla.delegations TO flotilla_definer;
DO $do$
BEGIN
    EXECUTE format($create$
        CREATE FUNCTION flotilla.unticketed_task(tenant text, task text, asked text, try integer) RETURNS text
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
            AS $$
            SELECT CASE
                WHEN d.task_id IS NULL AND t.status = 'queued' THEN 'waits'
                WHEN d.task_id IS NOT NULL THEN 'superseded'
            END
            FROM flotilla.agent_tasks AS t
            LEFT JOIN flotilla.delegations AS d
                ON d.tenant_id = t.tenant_id AND d.task_id = t.task_id AND d.attempt = try
            WHERE t.tenant_id = tenant AND t.task_id = task AND t.agent = asked AND t.attempt = try
              AND t.created_at < %L::timestamptz
            $$
        $create$, now() + interval '1 day');
END
$do$;
ALTER FUNCTION flotilla.unticketed_task(text, text, text, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.unticketed_task(text, text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.unticketed_task(text, text, text, integer) TO flotilla_app;
