-- Who runs an approved tool proves its votes itself, with no more of the log than that takes.
SELECT flotilla_ops.open_to('flotilla.approval_decisions', 'flotilla_definer');
GRANT SELECT ON flotilla.approval_decisions TO flotilla_definer;
DO $$
DECLARE
    target text;
BEGIN
    -- Exchanged with the next generation at a rebuild: both have the same rights.
    FOREACH target IN ARRAY ARRAY['audit.session_events', 'audit_next.session_events'] LOOP
        PERFORM flotilla_ops.open_to(target::regclass, 'flotilla_definer');
    END LOOP;
END
$$;

-- The events about signing keys after `after` in the tenant's audit session, in order, and at last a row with the
-- session's head and no body; no row at all while committed events are on the way from the outbox to the projection.
-- Of an agent, the tenant is that of the task that it holds.
CREATE FUNCTION flotilla.signer_events(after bigint) RETURNS TABLE (seq bigint, body bytea)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    session CONSTANT text := 'flotilla:audit';
    tenant text;
    head bigint;
    found_events bigint;
BEGIN
    IF pg_has_role(session_user, 'flotilla_worker', 'USAGE') OR pg_has_role(session_user, 'flotilla_app', 'USAGE') THEN
        tenant := flotilla_ops.current_tenant();
    ELSE
        SELECT h.tenant_id INTO tenant FROM flotilla.held_task() AS h WHERE h.may_work;
    END IF;
    IF tenant IS NULL THEN
        RAISE insufficient_privilege USING MESSAGE = 'the transaction holds no open task';
    END IF;
    SELECT s.head_seq INTO head FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = session;
    head := coalesce(head, 0);
    SELECT count(*) INTO found_events FROM (
        SELECT e.seq FROM audit.session_events AS e
        WHERE e.tenant_id = tenant AND e.session_id = session AND e.seq > after AND e.seq <= head
        UNION
        SELECT o.seq FROM flotilla.event_outbox AS o
        WHERE o.tenant_id = tenant AND o.session_id = session AND o.seq > after AND o.seq <= head) AS c;
    IF found_events < head - after THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT DISTINCT ON (c.seq) c.seq, c.body FROM (
        SELECT e.seq, e.body FROM audit.session_events AS e
        WHERE e.tenant_id = tenant AND e.session_id = session AND e.seq > after AND e.seq <= head
        UNION ALL
        SELECT o.seq, o.body FROM flotilla.event_outbox AS o
        WHERE o.tenant_id = tenant AND o.session_id = session AND o.seq > after AND o.seq <= head) AS c
    WHERE position(convert_to('"change":"signer_', 'UTF8') IN c.body) > 0
    ORDER BY c.seq;
    RETURN QUERY SELECT head, NULL::bytea;
END
$$;

-- The counted votes about one call of the held task, in order; a body is NULL while the event is on the way from the
-- outbox to the projection.
CREATE FUNCTION flotilla.task_votes(approval text) RETURNS TABLE (seq bigint, body bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT d.event_seq, coalesce(
        (SELECT e.body FROM audit.session_events AS e
         WHERE e.tenant_id = a.tenant_id AND e.session_id = a.session_id AND e.seq = d.event_seq),
        (SELECT o.body FROM flotilla.event_outbox AS o
         WHERE o.tenant_id = a.tenant_id AND o.session_id = a.session_id AND o.seq = d.event_seq LIMIT 1))
    FROM flotilla.held_task() AS h
    JOIN flotilla.actions AS a ON a.tenant_id = h.tenant_id AND a.session_id = h.session_id AND a.action_id = approval
        AND a.request ->> 'task_id' = h.task_id
    JOIN flotilla.approval_decisions AS d ON d.tenant_id = a.tenant_id AND d.approval_id = a.action_id
    WHERE h.may_work AND d.outcome = 'counted' AND d.event_seq IS NOT NULL
    ORDER BY d.event_seq LIMIT 1000
    $$;

ALTER FUNCTION flotilla.signer_events(bigint) OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.task_votes(text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.signer_events(bigint), flotilla.task_votes(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.signer_events(bigint) TO flotilla_agent, flotilla_worker, flotilla_app;
GRANT EXECUTE ON FUNCTION flotilla.task_votes(text) TO flotilla_agent, flotilla_app;
