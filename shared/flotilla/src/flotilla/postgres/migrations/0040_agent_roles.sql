-- A role per agent: `flotilla_agent_<name>`, a member of `flotilla_agent`, which holds the grants and policies. A ticket
-- counts for the agent that it was issued to, so that one that was stolen opens nothing to another agent.

-- Whether the transaction's login is the role of `agent`. Until an operator takes its login away, `flotilla_agent` is every
-- agent, and `flotilla_app` every service of former versions (UPGRADING.md).
CREATE FUNCTION flotilla_ops.is_agent(agent text) RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN session_user::text IN ('flotilla_agent_' || agent, 'flotilla_agent', 'flotilla_app');

-- Make the role of `agent` and return its name. Callers may be many at once.
CREATE FUNCTION flotilla_ops.create_agent_role(agent text) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    role_name CONSTANT text := 'flotilla_agent_' || agent;
BEGIN
    IF octet_length(role_name) > 63 THEN
        RAISE name_too_long USING MESSAGE = format(
            'agent %s can have no role of its own: its name is longer than 48 characters; give it a shorter one', agent);
    END IF;
    IF to_regrole(quote_ident(role_name)) IS NULL THEN
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    IF NOT pg_has_role(role_name, 'flotilla_agent', 'USAGE') THEN
        BEGIN
            EXECUTE format('GRANT flotilla_agent TO %I WITH INHERIT TRUE, SET FALSE', role_name);
        EXCEPTION WHEN unique_violation THEN
            NULL;
        END;
    END IF;
    RETURN role_name;
END
$$;
REVOKE ALL ON FUNCTION flotilla_ops.create_agent_role(text) FROM PUBLIC;

-- As in 0024, for the agent's own role only.
CREATE OR REPLACE FUNCTION flotilla.held_task()
    RETURNS TABLE (tenant_id text, task_id text, attempt integer, session_id text, run_id text, agent text,
                   readable text[], may_answer boolean, may_work boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT d.tenant_id, d.task_id, d.attempt, d.session_id, d.run_id, d.agent,
        CASE WHEN NOT is_open THEN ARRAY[d.task_id]
             WHEN d.input_from <> '?' THEN ARRAY[d.task_id, d.input_from]
             ELSE ARRAY(SELECT t.task_id FROM flotilla.agent_tasks AS t
                        WHERE t.tenant_id = d.tenant_id AND t.run_id = d.run_id)
                  || ARRAY[d.task_id, d.root_task_id, d.root_task_id || '~' || d.hop - 1] END,
        is_open, is_open AND now() < d.deadline + interval '10 minutes'
    FROM flotilla.delegations AS d, LATERAL (SELECT d.state = 'open' OR (d.state = 'superseded' AND EXISTS (
        SELECT FROM flotilla.delegations AS l WHERE l.tenant_id = d.tenant_id AND l.root_task_id = d.root_task_id
            AND l.attempt > d.attempt AND l.state = 'open'))) AS o (is_open)
    WHERE d.tenant_id = current_setting('flotilla.tenant_id', true)
      AND d.task_id = current_setting('flotilla.task_id', true)
      AND d.attempt = nullif(current_setting('flotilla.task_attempt', true), '')::integer
      AND d.secret_hash = sha256(convert_to(current_setting('flotilla.task_secret', true), 'UTF8'))
      AND flotilla_ops.is_agent(d.agent);
END
$$;
CREATE OR REPLACE FUNCTION flotilla.ticket_state() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN h.task_id IS NULL THEN 'reissued' WHEN h.may_answer THEN 'open' ELSE d.state END
    FROM flotilla.delegations AS d LEFT JOIN flotilla.held_task() AS h ON true
    WHERE d.tenant_id = current_setting('flotilla.tenant_id', true)
      AND d.task_id = current_setting('flotilla.task_id', true)
      AND d.attempt = nullif(current_setting('flotilla.task_attempt', true), '')::integer
      AND flotilla_ops.is_agent(d.agent)
    $$;

-- The registry, and what an agent says about entries of its stream, in its own name.
ALTER POLICY register ON flotilla_ops.agents WITH CHECK (flotilla_ops.is_agent(name));
ALTER POLICY renew ON flotilla_ops.agents USING (flotilla_ops.is_agent(name));
ALTER POLICY forget ON flotilla_ops.agents USING (flotilla_ops.is_agent(name) AND last_seen < now() - interval '1 hour');

-- Answers about tasks without a ticket, as in 0023, for the agent that is asked.
ALTER FUNCTION flotilla.unticketed_task(text, text, text, integer) RENAME TO unticketed_task_of_agent;
CREATE FUNCTION flotilla.unticketed_task(tenant text, task text, asked text, try integer) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT flotilla.unticketed_task_of_agent(tenant, task, asked, try) WHERE flotilla_ops.is_agent(asked)
    $$;
CREATE OR REPLACE FUNCTION flotilla.keep_dead_letter(tenant text, letter_id text, stream text, consumer_group text,
    entry_id text, task_id text, session_id text, run_id text, event_type text, reason text, error text, attempts integer,
    body bytea, fields jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    prefix CONSTANT text := 'flotilla.tasks.';
    kept text;
BEGIN
    IF NOT pg_has_role(session_user, 'flotilla_worker', 'USAGE') AND NOT pg_has_role(session_user, 'flotilla_app', 'USAGE')
        AND NOT (starts_with(keep_dead_letter.stream, prefix)
                 AND flotilla_ops.is_agent(substr(keep_dead_letter.stream, length(prefix) + 1)))
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'an agent keeps dead letters of its own task stream only';
    END IF;
    INSERT INTO flotilla.dead_letters (tenant_id, dead_letter_id, stream, consumer_group, entry_id, task_id, session_id,
        run_id, event_type, reason, error, attempts, body, fields)
    VALUES (tenant, letter_id, keep_dead_letter.stream, keep_dead_letter.consumer_group, keep_dead_letter.entry_id,
        keep_dead_letter.task_id, keep_dead_letter.session_id, keep_dead_letter.run_id, keep_dead_letter.event_type,
        keep_dead_letter.reason, keep_dead_letter.error, keep_dead_letter.attempts, keep_dead_letter.body,
        keep_dead_letter.fields)
    ON CONFLICT (tenant_id, stream, entry_id) DO UPDATE SET entry_id = excluded.entry_id
    RETURNING dead_letter_id INTO kept;
    RETURN kept;
END
$$;
REVOKE EXECUTE ON FUNCTION flotilla.unticketed_task_of_agent(text, text, text, integer) FROM flotilla_agent, flotilla_app;
ALTER FUNCTION flotilla.unticketed_task(text, text, text, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.unticketed_task(text, text, text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.unticketed_task(text, text, text, integer) TO flotilla_agent, flotilla_app;
