-- A role per service, each with what its service does and no more. flotilla_app keeps its rights, for services of the
-- former version while they are replaced; UPGRADING.md says how they are taken away.

DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['flotilla_gateway', 'flotilla_worker', 'flotilla_agent'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    -- Writes the first keys; nobody logs in as it.
    BEGIN
        CREATE ROLE flotilla_install NOLOGIN;
        GRANT flotilla_install TO CURRENT_USER;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
END
$$;
GRANT USAGE ON SCHEMA flotilla, flotilla_ops TO flotilla_gateway, flotilla_worker, flotilla_agent;
GRANT USAGE ON SCHEMA audit TO flotilla_gateway;
GRANT SELECT ON flotilla_ops._yoyo_migration TO flotilla_gateway, flotilla_worker, flotilla_agent;

-- Gateway and worker serve every tenant: they name the tenant of each transaction by a setting. Agents can't.
CREATE OR REPLACE FUNCTION flotilla_ops.protect(target regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant ON %s TO flotilla_app, flotilla_gateway, flotilla_worker '
        'USING (tenant_id = flotilla_ops.current_tenant())', target);
END
$$;
DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN SELECT polrelid::regclass FROM pg_policy WHERE polname = 'tenant' LOOP
        EXECUTE format('ALTER POLICY tenant ON %s TO flotilla_app, flotilla_gateway, flotilla_worker', target);
    END LOOP;
    -- Tables of the projection are exchanged with those of the next generation: both have the same rights.
    FOR target IN SELECT c.oid::regclass FROM pg_class AS c
        WHERE c.relnamespace IN ('audit'::regnamespace, 'audit_next'::regnamespace) AND c.relkind IN ('r', 'v')
          AND has_table_privilege('flotilla_app', c.oid, 'SELECT')
    LOOP
        EXECUTE format('GRANT SELECT ON %s TO flotilla_gateway', target);
    END LOOP;
END
$$;

DO $$
DECLARE
    target regclass;
BEGIN
    FOREACH target IN ARRAY ARRAY['flotilla.people', 'flotilla.api_keys', 'flotilla.accounts']::regclass[] LOOP
        EXECUTE format('CREATE POLICY tenant_of_install ON %s TO flotilla_install '
            'USING (tenant_id = flotilla_ops.current_tenant())', target);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON %s TO flotilla_install', target);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA flotilla, flotilla_ops TO flotilla_install;

-- The gateway: what callers ask for. Of a vote it writes the attempt, and that it was refused.
GRANT SELECT ON
    flotilla.people, flotilla.api_keys, flotilla.sessions, flotilla.runs, flotilla.idempotency_keys, flotilla.interactions,
    flotilla.agent_actions, flotilla.agent_tasks, flotilla.llm_calls, flotilla.event_outbox, flotilla.outbox_parked,
    flotilla.outbox_replaced, flotilla.dead_letters, flotilla.documents, flotilla.passages, flotilla.postings,
    flotilla.indexed_documents, flotilla.knowledge_bases, flotilla.session_rollbacks, flotilla.actions, flotilla.approvals,
    flotilla.approval_decisions, flotilla.orders, flotilla.pipelines, flotilla.sign_ins, flotilla_ops.agents
    TO flotilla_gateway;
GRANT INSERT ON
    flotilla.people, flotilla.api_keys, flotilla.sessions, flotilla.idempotency_keys, flotilla.session_rollbacks,
    flotilla.sign_ins TO flotilla_gateway;
GRANT UPDATE (roles) ON flotilla.people TO flotilla_gateway;
GRANT UPDATE (revoked_at) ON flotilla.api_keys TO flotilla_gateway;
GRANT UPDATE (metadata) ON flotilla.sessions TO flotilla_gateway;
GRANT DELETE ON flotilla.sign_ins TO flotilla_gateway;
GRANT INSERT (tenant_id, run_id, session_id, user_id, workflow_id, query, request, traceparent, first_seq),
    UPDATE (status, finished_at) ON flotilla.runs TO flotilla_gateway;
GRANT INSERT (tenant_id, task_id, session_id, user_id, workflow_id, steps, request, result_task_id, traceparent),
    UPDATE (status) ON flotilla.pipelines TO flotilla_gateway;
GRANT INSERT (tenant_id, action_id, session_id, workflow_id, action, description, args, risk_level, requested_by, request,
    traceparent) ON flotilla.actions TO flotilla_gateway;
GRANT INSERT (tenant_id, order_id, session_id, workflow_id, user_id, product_id, amount_minor, currency, request,
    traceparent) ON flotilla.orders TO flotilla_gateway;
GRANT INSERT (tenant_id, approval_id, attempt_id, update_id, subject, decision, content_hash, reason, args, authenticated,
    policy_version), UPDATE (outcome, refusal) ON flotilla.approval_decisions TO flotilla_gateway;
GRANT UPDATE (redriven_at, discarded_at) ON flotilla.dead_letters TO flotilla_gateway;
GRANT INSERT, UPDATE, DELETE ON flotilla.documents, flotilla.passages, flotilla.postings, flotilla.indexed_documents,
    flotilla.knowledge_bases TO flotilla_gateway;
GRANT INSERT ON audit.requests TO flotilla_gateway;
GRANT UPDATE (confirmed_by, confirmed_at) ON audit.requests TO flotilla_gateway;
-- Whether a run is cancelled, a pipeline runs or a vote was refused: nothing else comes from the gateway.
CREATE POLICY gateway_cancels ON flotilla.runs AS RESTRICTIVE FOR UPDATE TO flotilla_gateway
    USING (status = 'pending') WITH CHECK (status = 'cancelled');
CREATE POLICY gateway_starts ON flotilla.pipelines AS RESTRICTIVE FOR UPDATE TO flotilla_gateway
    USING (status = 'pending') WITH CHECK (status = 'running');
CREATE POLICY gateway_refuses ON flotilla.approval_decisions AS RESTRICTIVE FOR UPDATE TO flotilla_gateway
    USING (outcome = 'attempted') WITH CHECK (outcome = 'refused');

-- The worker: what workflows do, and what is delegated.
GRANT SELECT ON
    flotilla.people, flotilla.sessions, flotilla.runs, flotilla.interactions, flotilla.agent_tasks, flotilla.agent_actions,
    flotilla.dead_letters, flotilla.session_rollbacks, flotilla.actions, flotilla.approvals, flotilla.approval_decisions,
    flotilla.webhook_deliveries, flotilla.action_executions, flotilla.publications, flotilla.orders, flotilla.accounts,
    flotilla.reservations, flotilla.verifications, flotilla.pipelines, flotilla.tool_calls, flotilla.delegations,
    flotilla.llm_calls, flotilla.llm_claims, flotilla_ops.agents, flotilla_ops.delegates, flotilla_ops.leases TO flotilla_worker;
GRANT INSERT ON
    flotilla.sessions, flotilla.runs, flotilla.interactions, flotilla.agent_tasks, flotilla.agent_actions,
    flotilla.dead_letters, flotilla.actions, flotilla.approvals, flotilla.approval_decisions, flotilla.webhook_deliveries,
    flotilla.action_executions, flotilla.publications, flotilla.orders, flotilla.reservations, flotilla.verifications,
    flotilla.delegations, flotilla_ops.delegates, flotilla_ops.leases TO flotilla_worker;
GRANT UPDATE ON
    flotilla.runs, flotilla.agent_tasks, flotilla.dead_letters, flotilla.actions, flotilla.approvals,
    flotilla.approval_decisions, flotilla.webhook_deliveries, flotilla.action_executions, flotilla.orders,
    flotilla.accounts, flotilla.reservations, flotilla.verifications, flotilla.pipelines, flotilla.delegations,
    flotilla_ops.delegates, flotilla_ops.leases TO flotilla_worker;
GRANT UPDATE (metadata) ON flotilla.sessions TO flotilla_worker;
GRANT DELETE ON flotilla_ops.delegates, flotilla_ops.leases TO flotilla_worker;

-- Leases: the lanes of the outbox are the relay's, the rest is the worker's.
ALTER TABLE flotilla_ops.leases ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON flotilla_ops.leases FOR SELECT USING (true);
CREATE POLICY former ON flotilla_ops.leases TO flotilla_app USING (true);
CREATE POLICY lanes ON flotilla_ops.leases TO flotilla_relay USING (starts_with(name, 'outbox.'));
CREATE POLICY leaders ON flotilla_ops.leases TO flotilla_worker USING (NOT starts_with(name, 'outbox.'));
REVOKE INSERT, UPDATE, DELETE ON flotilla_ops.leases FROM flotilla_audit;

-- The registry: agents write it; an entry goes once nobody has renewed it for an hour.
ALTER TABLE flotilla_ops.agents ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody ON flotilla_ops.agents FOR SELECT USING (true);
CREATE POLICY former ON flotilla_ops.agents TO flotilla_app USING (true);
CREATE POLICY register ON flotilla_ops.agents FOR INSERT TO flotilla_agent WITH CHECK (true);
CREATE POLICY renew ON flotilla_ops.agents FOR UPDATE TO flotilla_agent USING (true);
CREATE POLICY forget ON flotilla_ops.agents FOR DELETE TO flotilla_agent USING (last_seen < now() - interval '1 hour');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.agents TO flotilla_agent;

-- The task whose stored result is laid under the task's input, '' for none; '?' where a former version of the worker, which
-- does not write it, delegated: then any of the run, and the hop before, may be it.
ALTER TABLE flotilla.delegations ADD COLUMN input_from text NOT NULL DEFAULT '?';

-- The task that the transaction acts for, by the settings flotilla.tenant_id, .task_id, .task_attempt and .task_secret:
-- a row only when the secret is that of the task's ticket, which the worker issued. `may_answer` until it is answered,
-- `may_work` also only until its time is over; `readable` are the tasks whose answers it may see.
-- A try that a later one took the place of goes on to count as long as that one is open.
CREATE FUNCTION flotilla.held_task()
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
      AND d.secret_hash = sha256(convert_to(current_setting('flotilla.task_secret', true), 'UTF8'));
END
$$;
-- The state of the task that the settings name: `open` while it may be answered, `reissued` when its ticket is not the
-- one that counts, NULL when there is no such task (yet), else the state of its delegation.
CREATE FUNCTION flotilla.ticket_state() RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN h.task_id IS NULL THEN 'reissued' WHEN h.may_answer THEN 'open' ELSE d.state END
    FROM flotilla.delegations AS d LEFT JOIN flotilla.held_task() AS h ON true
    WHERE d.tenant_id = current_setting('flotilla.tenant_id', true)
      AND d.task_id = current_setting('flotilla.task_id', true)
      AND d.attempt = nullif(current_setting('flotilla.task_attempt', true), '')::integer
    $$;
-- The held task's session, and those that it was forked from.
CREATE FUNCTION flotilla.task_sessions() RETURNS TABLE (tenant_id text, session_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE lineage AS (
        SELECT s.tenant_id, s.session_id, s.parent_session_id FROM flotilla.held_task() AS h
        JOIN flotilla.sessions AS s ON s.tenant_id = h.tenant_id AND s.session_id = h.session_id WHERE h.may_work
        UNION
        SELECT p.tenant_id, p.session_id, p.parent_session_id
        FROM lineage AS l JOIN flotilla.sessions AS p ON p.tenant_id = l.tenant_id AND p.session_id = l.parent_session_id
    )
    SELECT l.tenant_id, l.session_id FROM lineage AS l
    $$;

ALTER FUNCTION flotilla.held_task() OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.ticket_state() OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.task_sessions() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.held_task(), flotilla.ticket_state(), flotilla.task_sessions() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.held_task(), flotilla.ticket_state(), flotilla.task_sessions()
    TO flotilla_agent, flotilla_app;

-- Lets agents see, and do as far as they are granted, rows of the tenant whose task they hold.
CREATE FUNCTION flotilla_ops.open_to_tasks(target regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('CREATE POLICY tenant_of_task ON %s TO flotilla_agent USING '
        '(tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h WHERE h.may_work))', target);
END
$$;

-- Agents: the rows of the task that they hold. Each policy looks the ticket up once per statement.
CREATE POLICY task_reads ON flotilla.agent_tasks FOR SELECT TO flotilla_agent
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h)
           AND task_id = ANY ((SELECT h.readable FROM flotilla.held_task() AS h)::text[]));
CREATE POLICY task_answers ON flotilla.agent_tasks FOR INSERT TO flotilla_agent
    WITH CHECK ((tenant_id, task_id, session_id, agent, attempt) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent, h.attempt FROM flotilla.held_task() AS h WHERE h.may_answer));
CREATE POLICY task_answers_again ON flotilla.agent_tasks FOR UPDATE TO flotilla_agent
    USING ((tenant_id, task_id) = (SELECT h.tenant_id, h.task_id FROM flotilla.held_task() AS h WHERE h.may_answer))
    WITH CHECK ((tenant_id, task_id, session_id, agent, attempt) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent, h.attempt FROM flotilla.held_task() AS h WHERE h.may_answer));
CREATE POLICY task ON flotilla.agent_actions FOR INSERT TO flotilla_agent
    WITH CHECK ((tenant_id, task_id, session_id, agent_id) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent FROM flotilla.held_task() AS h WHERE h.may_answer));
CREATE POLICY task ON flotilla.tool_calls TO flotilla_agent
    USING ((tenant_id, task_id, session_id, agent) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent FROM flotilla.held_task() AS h WHERE h.may_answer));
CREATE POLICY task ON flotilla.llm_calls TO flotilla_agent
    USING ((tenant_id, task_id, session_id, agent) =
        (SELECT h.tenant_id, h.task_id, h.session_id, h.agent FROM flotilla.held_task() AS h WHERE h.may_work));
CREATE POLICY task ON flotilla.llm_claims TO flotilla_agent
    USING ((tenant_id, task_id) = (SELECT h.tenant_id, h.task_id FROM flotilla.held_task() AS h WHERE h.may_work));
-- Tokens are counted for the run and for the tenant's day; a call is reserved under `<task>/<request>`.
CREATE POLICY tenant_of_task ON flotilla.token_reservations FOR SELECT TO flotilla_agent
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h WHERE h.may_work));
CREATE POLICY task ON flotilla.token_reservations TO flotilla_agent
    USING ((tenant_id, left(task_id, -65)) =
        (SELECT h.tenant_id, h.task_id FROM flotilla.held_task() AS h WHERE h.may_work));
CREATE POLICY run_or_day ON flotilla.token_budgets TO flotilla_agent
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h WHERE h.may_work)
           AND (starts_with(scope, 'day:')
                OR scope = (SELECT 'run:' || h.run_id FROM flotilla.held_task() AS h WHERE h.may_work)));
CREATE FUNCTION flotilla_ops.refuse_refund() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = 'tokens that are used stay used';
END
$$;
CREATE TRIGGER used_stays_used BEFORE UPDATE ON flotilla.token_budgets
    FOR EACH ROW WHEN (NEW.used < OLD.used) EXECUTE FUNCTION flotilla_ops.refuse_refund();
CREATE POLICY task ON flotilla.actions FOR SELECT TO flotilla_agent
    USING ((tenant_id, session_id, request ->> 'task_id') =
        (SELECT h.tenant_id, h.session_id, h.task_id FROM flotilla.held_task() AS h WHERE h.may_work));
CREATE POLICY task ON flotilla.action_executions TO flotilla_agent
    USING (idempotency_key = action_id AND (tenant_id, action_id) IN (SELECT a.tenant_id, a.action_id FROM flotilla.actions AS a));

DO $$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY ARRAY['sessions', 'interactions', 'session_rollbacks'] LOOP
        EXECUTE format('CREATE POLICY session_of_task ON flotilla.%I FOR SELECT TO flotilla_agent USING '
            '((tenant_id, session_id) IN (SELECT s.tenant_id, s.session_id FROM flotilla.task_sessions() AS s))', target);
    END LOOP;
    FOREACH target IN ARRAY ARRAY['documents', 'passages', 'postings', 'indexed_documents', 'knowledge_bases'] LOOP
        PERFORM flotilla_ops.open_to_tasks(format('flotilla.%I', target));
    END LOOP;
    IF to_regclass('flotilla.passage_embeddings') IS NOT NULL THEN
        PERFORM flotilla_ops.open_to_tasks('flotilla.passage_embeddings');
        GRANT SELECT ON flotilla.passage_embeddings TO flotilla_agent;
        GRANT SELECT, INSERT, DELETE ON flotilla.passage_embeddings TO flotilla_gateway;
        GRANT EXECUTE ON FUNCTION flotilla.tenants_to_embed(text) TO flotilla_gateway;
    END IF;
END
$$;
GRANT SELECT ON flotilla.documents, flotilla.passages, flotilla.postings, flotilla.indexed_documents, flotilla.knowledge_bases
    TO flotilla_agent;
GRANT SELECT (tenant_id, session_id, parent_session_id, forked_at_seq, head_seq) ON flotilla.sessions TO flotilla_agent;
GRANT SELECT (tenant_id, session_id, query, answer, message_seq) ON flotilla.interactions TO flotilla_agent;
GRANT SELECT ON flotilla.session_rollbacks TO flotilla_agent;
GRANT SELECT (tenant_id, action_id, session_id, request, args, approval_status, error, finished_at) ON flotilla.actions
    TO flotilla_agent;
GRANT SELECT, INSERT ON flotilla.agent_tasks, flotilla.action_executions, flotilla.llm_calls, flotilla.tool_calls TO flotilla_agent;
GRANT UPDATE (agent, session_id, run_id, status, attempt, result, failure, finished_at, duration_ms)
    ON flotilla.agent_tasks TO flotilla_agent;
GRANT INSERT ON flotilla.agent_actions TO flotilla_agent;
GRANT UPDATE (outcome, result, error, escaped, finished_at, expires_at, recorded) ON flotilla.tool_calls TO flotilla_agent;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.llm_claims, flotilla.token_reservations TO flotilla_agent;
GRANT SELECT, INSERT, UPDATE (used, updated_at) ON flotilla.token_budgets TO flotilla_agent;

-- Functions of the former role, each for whom it serves.
GRANT EXECUTE ON FUNCTION
    flotilla.authenticate(bytea), flotilla.authenticate_sign_in(bytea),
    flotilla.forget_idempotency_keys(interval, integer), flotilla.forget_sign_ins(integer),
    flotilla.redrive_outbox(text, bytea), flotilla.outbox_backlog(), flotilla.tenants_to_index(text),
    audit.next_offset(integer), audit.checkpoints_after(integer, bigint, integer),
    audit.newest_checkpoints(timestamptz, text, integer), audit.kept_sessions_lost() TO flotilla_gateway;
GRANT EXECUTE ON FUNCTION
    flotilla.unfinished_work(interval, timestamptz, boolean, integer), flotilla.approval_gauges(),
    flotilla.dead_letter_counts(integer), flotilla.outbox_backlog() TO flotilla_worker;
GRANT EXECUTE ON FUNCTION flotilla.unticketed_task(text, text, text, integer) TO flotilla_agent;

-- Outbox rows have one writer: this function. It draws the session's next sequence numbers and writes the events with
-- them in the place between `heads` and `tails`; NULL when there is no such session, or it is not at `expected`.
-- Granted to nobody: those below say who may.
CREATE FUNCTION flotilla.append_rows(tenant text, session text, expected bigint, lane smallint, ids uuid[], heads bytea[],
                                    tails bytea[], trace text) RETURNS bigint
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    drawn bigint;
BEGIN
    UPDATE flotilla.sessions AS s SET head_seq = s.head_seq + cardinality(ids)
        WHERE s.tenant_id = tenant AND s.session_id = session AND (expected IS NULL OR s.head_seq = expected)
        RETURNING s.head_seq INTO drawn;
    INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body, traceparent)
    SELECT append_rows.lane, tenant, session, e.seq, e.id, e.head || convert_to(e.seq::text, 'UTF8') || e.tail, trace
    FROM (SELECT u.id, u.head, u.tail, drawn - cardinality(ids) + u.n AS seq
          FROM unnest(ids, heads, tails) WITH ORDINALITY AS u (id, head, tail, n)) AS e
    WHERE drawn IS NOT NULL ORDER BY e.seq;
    RETURN drawn;
END
$$;

-- Kafka's murmur2 of `<tenant>/<session>`, as flotilla.kafka.lanes: an agent doesn't choose where its events go.
CREATE FUNCTION flotilla.lane_of(tenant text, session text, lanes integer) RETURNS integer
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    m CONSTANT bigint := 1540483477;
    mask CONSTANT bigint := 4294967295;
    key CONSTANT bytea := convert_to(replace(replace(tenant, '%', '%25'), '/', '%2F') || '/'
        || replace(replace(session, '%', '%25'), '/', '%2F'), 'UTF8');
    whole CONSTANT integer := length(key) & ~3;
    h bigint := (2538058380 # length(key)) & mask;
    k bigint;
    rest bigint := 0;
BEGIN
    FOR i IN 0 .. whole / 4 - 1 LOOP
        k := ((get_byte(key, 4 * i) + get_byte(key, 4 * i + 1) * 256 + get_byte(key, 4 * i + 2) * 65536
               + get_byte(key, 4 * i + 3) * 16777216::bigint) * m) & mask;
        h := ((h * m) & mask) # (((k # (k >> 24)) * m) & mask);
    END LOOP;
    FOR i IN whole .. length(key) - 1 LOOP
        rest := rest + (get_byte(key, i)::bigint << (8 * (i - whole)));
    END LOOP;
    IF length(key) > whole THEN
        h := ((h # rest) * m) & mask;
    END IF;
    h := ((h # (h >> 13)) * m) & mask;
    RETURN ((h # (h >> 15)) & 2147483647) % lanes;
END
$$;

-- What services append, in the tenant of the transaction. The gateway writes in its own name only.
CREATE FUNCTION flotilla.append_events(tenant text, session text, expected bigint, lane smallint, ids uuid[],
                                       heads bytea[], tails bytea[], trace text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF tenant IS DISTINCT FROM flotilla_ops.current_tenant() THEN
        RETURN NULL;
    END IF;
    IF NOT pg_has_role(session_user, 'flotilla_worker', 'USAGE') AND NOT pg_has_role(session_user, 'flotilla_app', 'USAGE')
        AND EXISTS (SELECT FROM unnest(heads, tails) AS e (head, tail)
                    WHERE convert_from(e.head || '0'::bytea || e.tail, 'UTF8')::json ->> 'source' IS DISTINCT FROM '/gateway')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'the gateway appends events with the source /gateway only';
    END IF;
    RETURN flotilla.append_rows(tenant, session, expected, lane, ids, heads, tails, trace);
END
$$;

-- What an agent appends: to the session of the task that it holds, in its own name.
CREATE FUNCTION flotilla.append_task_events(ids uuid[], heads bytea[], tails bytea[], trace text)
    RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    held record;
    drawn bigint;
BEGIN
    SELECT h.tenant_id, h.session_id, h.task_id, h.agent INTO held FROM flotilla.held_task() AS h WHERE h.may_answer;
    IF NOT FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = 'the transaction holds no open task';
    END IF;
    drawn := flotilla.append_rows(held.tenant_id, held.session_id, NULL,
        flotilla.lane_of(held.tenant_id, held.session_id, 12)::smallint, ids, heads, tails, trace);
    IF drawn IS NOT NULL AND EXISTS (
        SELECT FROM unnest(ids, heads, tails) WITH ORDINALITY AS u (id, head, tail, n),
            LATERAL (SELECT drawn - cardinality(ids) + u.n AS seq) AS s,
            LATERAL (SELECT convert_from(u.head || convert_to(s.seq::text, 'UTF8') || u.tail, 'UTF8')::json AS event) AS b,
            LATERAL json_to_record(b.event) AS r (id uuid, source text, tenant text, subject text, taskid text, sequence bigint)
        WHERE (r.id, r.source, r.tenant, r.subject, r.taskid, r.sequence) IS DISTINCT FROM
              (u.id, '/agents/' || held.agent, held.tenant_id, held.session_id, held.task_id, s.seq)
           OR (SELECT count(*) <> count(DISTINCT k) FROM json_object_keys(b.event) AS k))
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'an agent appends events of its own task in its own name only';
    END IF;
    RETURN drawn;
END
$$;

-- Keeps an entry that can't be handled, once. Agents keep those of task streams.
CREATE FUNCTION flotilla.keep_dead_letter(tenant text, letter_id text, stream text, consumer_group text, entry_id text,
    task_id text, session_id text, run_id text, event_type text, reason text, error text, attempts integer, body bytea,
    fields jsonb) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    kept text;
BEGIN
    IF NOT starts_with(keep_dead_letter.stream, 'flotilla.tasks.') AND NOT pg_has_role(session_user, 'flotilla_worker', 'USAGE')
        AND NOT pg_has_role(session_user, 'flotilla_app', 'USAGE')
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'an agent keeps dead letters of task streams only';
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
GRANT INSERT, UPDATE (entry_id) ON flotilla.dead_letters TO flotilla_definer;

DO $$
DECLARE
    signature text;
    roles text;
BEGIN
    FOR signature, roles IN VALUES
        ('flotilla.append_rows(text, text, bigint, smallint, uuid[], bytea[], bytea[], text)', NULL),
        ('flotilla.lane_of(text, text, integer)', NULL),
        ('flotilla.append_events(text, text, bigint, smallint, uuid[], bytea[], bytea[], text)',
         'flotilla_gateway, flotilla_worker, flotilla_app'),
        ('flotilla.append_task_events(uuid[], bytea[], bytea[], text)', 'flotilla_agent, flotilla_app'),
        ('flotilla.keep_dead_letter(text, text, text, text, text, text, text, text, text, text, text, integer, bytea, jsonb)',
         'flotilla_agent, flotilla_worker, flotilla_app')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        IF roles IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', signature, roles);
        END IF;
    END LOOP;
END
$$;
