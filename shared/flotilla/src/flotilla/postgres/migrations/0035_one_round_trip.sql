-- What an agent asks for when a task reaches it and when it is done, each in one statement: a transaction of its own would
-- take four round trips more. A task's ticket is looked up once, where a policy looks it up once for each table.

SELECT flotilla_ops.open_to('flotilla.agent_actions', 'flotilla_definer');
SELECT flotilla_ops.open_to('flotilla.tool_calls', 'flotilla_definer');
GRANT SELECT ON flotilla.tool_calls TO flotilla_definer;
GRANT INSERT ON flotilla.agent_actions TO flotilla_definer;
GRANT INSERT, UPDATE (agent, session_id, run_id, status, attempt, result, failure, finished_at, duration_ms)
    ON flotilla.agent_tasks TO flotilla_definer;

-- Make the rest of the transaction act for a task.
CREATE FUNCTION flotilla_ops.act_for(tenant text, task text, try integer, secret text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('flotilla.task_id', task, true),
        set_config('flotilla.task_attempt', try::text, true), set_config('flotilla.task_secret', secret, true);
END
$$;

-- The outcome of the task's ticket, the answer to the task, if there is one, and the result that its input refers to.
CREATE FUNCTION flotilla.take_task(tenant text, task text, try integer, secret text, input_from text)
    RETURNS TABLE (ticket text, status text, attempt integer, result jsonb, failure jsonb, duration_ms double precision,
                   input jsonb)
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    PERFORM flotilla_ops.act_for(tenant, task, try, secret);
    SELECT h.* INTO held FROM flotilla.held_task() AS h;
    RETURN QUERY
    SELECT CASE WHEN held.may_answer THEN 'open' ELSE flotilla.ticket_state() END,
        t.status, t.attempt, t.result, t.failure, t.duration_ms, i.result
    FROM (SELECT) AS one
    LEFT JOIN flotilla.agent_tasks AS t ON t.tenant_id = held.tenant_id AND t.task_id = held.task_id
    LEFT JOIN flotilla.agent_tasks AS i ON i.tenant_id = held.tenant_id AND i.task_id = take_task.input_from
        AND i.task_id = ANY (held.readable) AND i.status = 'done';
END
$$;

-- Answers the held task: whether this is its answer now. `done` is final, and a later try is never overwritten by an
-- earlier one.
CREATE FUNCTION flotilla.answer_task(status text, entry_id text, result jsonb, failure jsonb, duration_ms double precision)
    RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    held record;
BEGIN
    SELECT h.* INTO held FROM flotilla.held_task() AS h WHERE h.may_answer;
    IF NOT FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = 'the transaction holds no open task';
    END IF;
    INSERT INTO flotilla.agent_tasks AS t (tenant_id, task_id, agent, session_id, run_id, status, attempt, entry_id, result,
        failure, finished_at, duration_ms)
    VALUES (held.tenant_id, held.task_id, held.agent, held.session_id, held.run_id, answer_task.status, held.attempt,
        answer_task.entry_id, answer_task.result, answer_task.failure, clock_timestamp(), answer_task.duration_ms)
    ON CONFLICT (tenant_id, task_id) DO UPDATE SET
        agent = excluded.agent, session_id = excluded.session_id, run_id = excluded.run_id, status = excluded.status,
        attempt = excluded.attempt, result = excluded.result, failure = excluded.failure,
        finished_at = excluded.finished_at, duration_ms = excluded.duration_ms
    WHERE t.status <> 'done' AND (excluded.status = 'done' OR t.attempt <= excluded.attempt);
    RETURN FOUND;
END
$$;

-- Answers a task with its actions and events, all or nothing: `done`; `answered` when another answer is there; `calls` when
-- the log is to show, before them, calls of tools that an earlier run of the task began. Writes nothing in either case.
CREATE FUNCTION flotilla.finish_task(tenant text, task text, try integer, secret text, status text, entry_id text,
    result jsonb, failure jsonb, duration_ms double precision, kinds text[], payloads jsonb[], ids uuid[], heads bytea[],
    tails bytea[], trace text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM flotilla_ops.act_for(tenant, task, try, secret);
    IF EXISTS (SELECT FROM flotilla.held_task() AS h
               JOIN flotilla.tool_calls AS c ON c.tenant_id = h.tenant_id AND c.task_id = h.task_id AND NOT c.recorded) THEN
        RETURN 'calls';
    END IF;
    IF NOT flotilla.answer_task(status, entry_id, result, failure, duration_ms) THEN
        RETURN 'answered';
    END IF;
    INSERT INTO flotilla.agent_actions (tenant_id, agent_id, session_id, task_id, action_type, payload)
    SELECT h.tenant_id, h.agent, h.session_id, h.task_id, a.action_type, a.payload
    FROM flotilla.held_task() AS h, unnest(kinds, payloads) WITH ORDINALITY AS a (action_type, payload, n) ORDER BY a.n;
    IF cardinality(ids) > 0 AND flotilla.append_task_events(ids, heads, tails, trace) IS NULL THEN
        RAISE no_data_found USING MESSAGE = 'the task''s session is not there';
    END IF;
    RETURN 'done';
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.take_task(text, text, integer, text, text)',
        'flotilla.answer_task(text, text, jsonb, jsonb, double precision)',
        'flotilla.finish_task(text, text, integer, text, text, text, jsonb, jsonb, double precision, text[], jsonb[], uuid[], '
            'bytea[], bytea[], text)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_agent, flotilla_app', signature);
    END LOOP;
END
$$;
