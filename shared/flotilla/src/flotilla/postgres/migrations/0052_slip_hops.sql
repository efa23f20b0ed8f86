-- A hop of a slip is forwarded in two statements: one reads what the next ticket needs, one ends the hop and opens the next.
-- `flotilla.settle_last` stays for workers of the former version.

-- What a reply to a task whose answer is stored comes to, as a statement alone. Where the result ends a slip, the delegation
-- ends; where another hop follows, nothing is written yet. Returns nothing where more has to be looked at. Not durable: after
-- a crash of the server the reply, which is not acknowledged yet, comes again.
CREATE FUNCTION flotilla.settle_stored(tenant text, task text, try integer, asked text, session text)
    RETURNS TABLE (agent text, slip text[], session_id text, run_id text, principal text, workflow_id text,
        workflow_run_id text, activity_id text, deadline timestamptz, state text, event bytea, took_s double precision,
        status text, attempt integer, result jsonb, failure jsonb, duration_ms double precision, closed boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    is_last boolean;
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('synchronous_commit', 'off', true);
    SELECT d.slip = '{}' INTO is_last FROM flotilla.delegations AS d
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try;
    RETURN QUERY
    SELECT s.* FROM flotilla.settle(tenant, task, try, asked, session, is_last) AS s
        WHERE s.closed OR (NOT is_last AND s.state = 'open' AND s.status = 'done' AND s.agent = asked
                           AND s.session_id = session);
END
$$;

-- Ends a hop whose result is stored and opens the next one of its slip, with the same session, person, activity and deadline.
-- Returns false, with nothing changed, where the hop is over or the next one is open already. Not durable, as above.
CREATE FUNCTION flotilla.forward_slip(tenant text, task text, try integer, next_task text, hash bytea, published bytea,
    signed text, below text) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    hop record;
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('synchronous_commit', 'off', true);
    SELECT d.* INTO hop FROM flotilla.delegations AS d
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE flotilla.delegations AS d SET state = 'superseded', event = NULL, ticket = NULL, closed_at = now()
        WHERE try > 1 AND d.tenant_id = tenant AND d.root_task_id = hop.root_task_id AND d.attempt < try
          AND d.state = 'open';
    IF NOT flotilla.open_hop(tenant, next_task, try, hop.root_task_id, hop.hop + 1, hop.slip[1], hop.slip[2:],
            hop.session_id, hop.run_id, hop.principal, hop.workflow_id, hop.workflow_run_id, hop.activity_id, hop.deadline,
            hash, published, signed, below, '{}', false) THEN
        RETURN false;
    END IF;
    UPDATE flotilla.delegations AS d SET state = 'done', event = NULL, ticket = NULL, closed_at = now()
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try;
    RETURN true;
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.settle_stored(text, text, integer, text, text)',
        'flotilla.forward_slip(text, text, integer, text, bytea, bytea, text, text)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_worker, flotilla_app', signature);
    END LOOP;
END
$$;
