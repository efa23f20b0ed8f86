-- A hop of a slip is forwarded in one statement by the worker that published it: it knows the task, and the reply brings the
-- result. `flotilla.settle_stored` and `flotilla.forward_slip` remain for replies that another worker gets.

-- Ends a hop whose stored result is `answered`, to the character, and opens the next one of its slip, as
-- `flotilla.forward_slip`. `known` is the hash of the secret in the task that the worker knows: a task that was published
-- again has another. Returns nothing, with nothing changed, where more has to be looked at. Not durable: after a crash of the
-- server the reply, which is not acknowledged yet, comes again.
CREATE FUNCTION flotilla.forward_answered(tenant text, task text, try integer, asked text, session text, known bytea,
    answered jsonb, next_task text, hash bytea, published bytea, signed text, below text)
    RETURNS TABLE (agent text, slip text[], session_id text, run_id text, principal text, workflow_id text,
        workflow_run_id text, activity_id text, deadline timestamptz, state text, took_s double precision, status text,
        attempt integer, result jsonb, failure jsonb, duration_ms double precision)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    hop record;
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('synchronous_commit', 'off', true);
    -- As text: 1 and 1.0 are equal numbers, and what the next agent gets is to be what is stored.
    SELECT d.*, t.attempt AS answered_in, t.result, t.duration_ms INTO hop
        FROM flotilla.delegations AS d
        JOIN flotilla.agent_tasks AS t ON t.tenant_id = d.tenant_id AND t.task_id = d.task_id
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open' AND d.agent = asked
          AND d.session_id = session AND d.secret_hash = known AND t.status = 'done' AND t.agent = asked AND t.session_id = session
          AND t.result::text = answered::text
        FOR UPDATE OF d;
    IF NOT FOUND OR NOT flotilla.forward_slip(tenant, task, try, next_task, hash, published, signed, below) THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT hop.agent, hop.slip, hop.session_id, hop.run_id, hop.principal, hop.workflow_id,
        hop.workflow_run_id, hop.activity_id, hop.deadline, hop.state,
        extract(epoch FROM now() - hop.issued_at)::double precision, 'done'::text, hop.answered_in, hop.result, NULL::jsonb,
        hop.duration_ms;
END
$$;

REVOKE ALL ON FUNCTION flotilla.forward_answered(text, text, integer, text, text, bytea, jsonb, text, bytea, bytea, text, text)
    FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.forward_answered(text, text, integer, text, text, bytea, jsonb, text, bytea, bytea, text, text)
    TO flotilla_worker, flotilla_app;
