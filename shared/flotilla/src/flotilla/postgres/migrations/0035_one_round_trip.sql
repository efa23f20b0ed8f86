-- What happens to a task, each in one statement: a transaction would take two to four round trips more.

SELECT flotilla_ops.open_to('flotilla.agent_actions', 'flotilla_definer');
SELECT flotilla_ops.open_to('flotilla.tool_calls', 'flotilla_definer');
GRANT SELECT ON flotilla.tool_calls TO flotilla_definer;
GRANT INSERT ON flotilla.agent_actions TO flotilla_definer;
GRANT INSERT, UPDATE (agent, session_id, run_id, status, attempt, result, failure, finished_at, duration_ms)
    ON flotilla.agent_tasks TO flotilla_definer;

-- Opens a hop for a try, unless one of the tasks `unless` is on record: the delegation, and the task's row, which keeps an
-- answer that it has. Returns whether the delegation was not open yet. `durable` is for a statement alone: whether it waits
-- for the disk; NULL leaves that to the transaction.
CREATE FUNCTION flotilla.open_hop(tenant text, task text, try integer, root text, hop_no integer, asked text, rest text[],
    session text, run text, person text, workflow text, workflow_run text, activity text, until timestamptz, hash bytea,
    published bytea, signed text, below text, unless text[], durable boolean) RETURNS boolean
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    is_new boolean;
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true);
    IF NOT durable THEN
        PERFORM set_config('synchronous_commit', 'off', true);
    END IF;
    IF EXISTS (SELECT FROM flotilla.agent_tasks AS t WHERE t.tenant_id = tenant AND t.task_id = ANY (unless)) THEN
        RETURN false;
    END IF;
    INSERT INTO flotilla.delegations AS d (tenant_id, task_id, attempt, root_task_id, hop, agent, slip, session_id, run_id,
        principal, workflow_id, workflow_run_id, activity_id, deadline, secret_hash, event, ticket, input_from)
    VALUES (tenant, task, try, root, hop_no, asked, rest, session, run, person, workflow, workflow_run, activity, until,
        hash, published, signed, below)
    ON CONFLICT (tenant_id, task_id, attempt) DO UPDATE SET
        agent = excluded.agent, slip = excluded.slip, session_id = excluded.session_id, run_id = excluded.run_id,
        principal = excluded.principal, workflow_id = excluded.workflow_id, workflow_run_id = excluded.workflow_run_id,
        activity_id = excluded.activity_id, deadline = excluded.deadline, secret_hash = excluded.secret_hash,
        event = excluded.event, ticket = excluded.ticket, input_from = excluded.input_from, state = 'open',
        issued_at = now(), closed_at = NULL
        WHERE d.state <> 'open';
    is_new := FOUND;
    INSERT INTO flotilla.agent_tasks AS t (tenant_id, task_id, agent, session_id, run_id, status, attempt)
    VALUES (tenant, task, asked, session, run, 'queued', try)
    ON CONFLICT (tenant_id, task_id) DO UPDATE
        SET status = 'queued', attempt = excluded.attempt, entry_id = NULL, failure = NULL, finished_at = NULL
        WHERE t.status <> 'done' AND t.attempt < excluded.attempt;
    RETURN is_new;
END
$$;

-- Where in the stream a task is. Not durable: after a crash of the server the task is published again.
CREATE FUNCTION flotilla.note_entry(tenant text, task text, try integer, entry text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('synchronous_commit', 'off', true);
    UPDATE flotilla.agent_tasks AS t SET entry_id = entry
        WHERE t.tenant_id = tenant AND t.task_id = task AND t.attempt = try;
END
$$;

-- What is on record about a task that `asked` replies to, in the transaction's tenant. Where its answer is a result, and the
-- reply speaks of a stored one (`is_stored`), the delegation ends.
CREATE FUNCTION flotilla.settle(tenant text, task text, try integer, asked text, session text, is_stored boolean)
    RETURNS TABLE (agent text, slip text[], session_id text, run_id text, principal text, workflow_id text,
        workflow_run_id text, activity_id text, deadline timestamptz, state text, event bytea, took_s double precision,
        status text, attempt integer, result jsonb, failure jsonb, duration_ms double precision, closed boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH found AS (
        SELECT d.agent, d.slip, d.session_id, d.run_id, d.principal, d.workflow_id, d.workflow_run_id, d.activity_id,
            d.deadline, d.state, d.event, extract(epoch FROM now() - d.issued_at)::double precision AS took_s, t.status,
            t.attempt, t.result, t.failure, t.duration_ms
        FROM flotilla.delegations AS d
        LEFT JOIN flotilla.agent_tasks AS t ON t.tenant_id = d.tenant_id AND t.task_id = d.task_id
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try
    ), ended AS (
        UPDATE flotilla.delegations AS d SET state = 'done', event = NULL, ticket = NULL, closed_at = now()
        FROM found AS f
        WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.state = 'open'
          AND is_stored AND f.status = 'done' AND f.agent = asked AND f.session_id = session
        RETURNING 1
    )
    SELECT f.*, EXISTS (SELECT FROM ended) FROM found AS f;
END
$$;

-- The same as a statement alone, for the reply that ends a slip. Nothing is written, or returned, where it does not. Not
-- durable: after a crash of the server the reply, which is not acknowledged yet, comes again.
CREATE FUNCTION flotilla.settle_last(tenant text, task text, try integer, asked text, session text)
    RETURNS TABLE (agent text, slip text[], session_id text, run_id text, principal text, workflow_id text,
        workflow_run_id text, activity_id text, deadline timestamptz, state text, event bytea, took_s double precision,
        status text, attempt integer, result jsonb, failure jsonb, duration_ms double precision, closed boolean)
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('synchronous_commit', 'off', true);
    IF EXISTS (SELECT FROM flotilla.delegations AS d
               WHERE d.tenant_id = tenant AND d.task_id = task AND d.attempt = try AND d.slip = '{}') THEN
        RETURN QUERY SELECT s.* FROM flotilla.settle(tenant, task, try, asked, session, true) AS s WHERE s.closed;
    END IF;
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.open_hop(text, text, integer, text, integer, text, text[], text, text, text, text, text, text, timestamptz, '
            'bytea, bytea, text, text, text[], boolean)',
        'flotilla.note_entry(text, text, integer, text)',
        'flotilla.settle(text, text, integer, text, text, boolean)',
        'flotilla.settle_last(text, text, integer, text, text)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_worker, flotilla_app', signature);
    END LOOP;
END
$$;

-- Make the rest of the transaction act for a task.
CREATE FUNCTION flotilla_ops.act_for(tenant text, task text, try integer, secret text) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM set_config('flotilla.tenant_id', tenant, true), set_config('flotilla.task_id', task, true),
        set_config('flotilla.task_attempt', try::text, true), set_config('flotilla.task_secret', secret, true);
END
$$;

-- Below, a task's ticket is looked up once, where policies look it up once for each table.

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
    result jsonb, failure jsonb, duration_ms double precision, kinds text[], payloads text[], ids uuid[], heads bytea[],
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
    SELECT h.tenant_id, h.agent, h.session_id, h.task_id, a.action_type, a.payload::jsonb
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
        'flotilla.finish_task(text, text, integer, text, text, text, jsonb, jsonb, double precision, text[], text[], uuid[], '
            'bytea[], bytea[], text)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_agent, flotilla_app', signature);
    END LOOP;
END
$$;
