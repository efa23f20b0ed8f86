-- As in 0091; the tool gateway, too, for a call that it makes at once: it shows the secret of the task that asks for it, and the
-- call's own task is not there yet when its arguments are stored.
CREATE OR REPLACE FUNCTION flotilla.may_use_keys(tenant text, session text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pg_has_role(session_user, 'flotilla_gateway', 'USAGE') OR pg_has_role(session_user, 'flotilla_worker', 'USAGE')
        OR pg_has_role(session_user, 'flotilla_app', 'USAGE') THEN
        RETURN tenant IS NOT DISTINCT FROM flotilla_ops.current_tenant();
    END IF;
    RETURN EXISTS (SELECT FROM flotilla.held_task() AS h
                   WHERE h.tenant_id = tenant AND h.session_id = session AND h.may_answer)
        OR EXISTS (SELECT FROM flotilla.task_sessions() AS s WHERE s.tenant_id = tenant AND s.session_id = session)
        OR (flotilla_ops.is_agent('mcp') AND EXISTS (
            SELECT FROM flotilla.delegations AS d
            WHERE d.tenant_id = tenant AND d.session_id = session AND d.state = 'open' AND now() < d.deadline
              AND d.task_id = current_setting('flotilla.task_id', true)
              AND d.attempt::text = current_setting('flotilla.task_attempt', true)
              AND d.secret_hash = sha256(convert_to(current_setting('flotilla.task_secret', true), 'UTF8'))));
END
$$;
