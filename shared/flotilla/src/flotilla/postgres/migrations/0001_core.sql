-- Roles, tenants, sessions, runs, delegated work, model answers, outbox, identity, dead letters.

CREATE SCHEMA flotilla;
CREATE SCHEMA audit;

-- Roles belong to the whole server, so another database's migration may make them at the same time.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY ARRAY['flotilla_app', 'flotilla_relay', 'flotilla_audit', 'flotilla_scaler'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I LOGIN', role_name);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    -- Owns the few SECURITY DEFINER functions, so that not even they see more than they need.
    BEGIN
        CREATE ROLE flotilla_definer NOLOGIN;
        GRANT flotilla_definer TO CURRENT_USER;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL;
    END;
END
$$;
GRANT USAGE, CREATE ON SCHEMA flotilla TO flotilla_definer;

GRANT USAGE ON SCHEMA flotilla TO flotilla_app, flotilla_relay, flotilla_audit, flotilla_scaler;
GRANT USAGE ON SCHEMA audit TO flotilla_app, flotilla_audit;
GRANT USAGE ON SCHEMA flotilla_ops TO flotilla_app, flotilla_relay, flotilla_audit, flotilla_scaler;

-- The tenant of the current transaction; NULL (which matches no row) when none is set.
CREATE FUNCTION flotilla_ops.current_tenant() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('flotilla.tenant_id', true), '') $$;

-- Puts a table under the tenant policy: enabled, forced, and flotilla_app sees its tenant's rows only.
CREATE FUNCTION flotilla_ops.protect(target regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target);
    EXECUTE format('CREATE POLICY tenant ON %s TO flotilla_app USING (tenant_id = flotilla_ops.current_tenant())', target);
END
$$;

-- Lets one service role see all tenants of one table.
CREATE FUNCTION flotilla_ops.open_to(target regclass, role_name text) RETURNS void
    LANGUAGE plpgsql
    AS $$
BEGIN
    EXECUTE format('CREATE POLICY %I ON %s TO %I USING (true) WITH CHECK (true)', role_name || '_all', target, role_name);
END
$$;

CREATE TABLE flotilla.people (
    tenant_id text NOT NULL,
    subject text NOT NULL,
    display_name text NOT NULL,
    roles text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, subject)
);

CREATE TABLE flotilla.api_keys (
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    name text NOT NULL,
    key_hash bytea NOT NULL UNIQUE,
    subject text NOT NULL,
    roles text[] NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    PRIMARY KEY (tenant_id, key_id)
);

CREATE TABLE flotilla.sessions (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    user_id text NOT NULL,
    head_seq bigint NOT NULL DEFAULT 0,
    parent_session_id text,
    forked_at_seq bigint,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id)
) WITH (fillfactor = 70);
CREATE INDEX sessions_by_creation ON flotilla.sessions (tenant_id, created_at DESC, session_id);

CREATE TABLE flotilla.runs (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    session_id text NOT NULL,
    user_id text NOT NULL,
    workflow_id text NOT NULL,
    query text NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'interrupted', 'success', 'error', 'timeout', 'cancelled')),
    request jsonb NOT NULL,
    result jsonb,
    error jsonb,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, run_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);
-- A session has one active run at a time.
CREATE UNIQUE INDEX runs_one_active ON flotilla.runs (tenant_id, session_id)
    WHERE status IN ('pending', 'running', 'interrupted');
CREATE INDEX runs_by_creation ON flotilla.runs (tenant_id, created_at DESC, run_id);
CREATE INDEX runs_by_session ON flotilla.runs (tenant_id, session_id, created_at DESC);
CREATE INDEX runs_pending ON flotilla.runs (created_at) WHERE status = 'pending';

CREATE TABLE flotilla.idempotency_keys (
    tenant_id text NOT NULL,
    principal text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    resource_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, principal, route, key)
);

CREATE TABLE flotilla.interactions (
    tenant_id text NOT NULL,
    interaction_id text NOT NULL,
    user_id text NOT NULL,
    session_id text NOT NULL,
    run_id text NOT NULL,
    query text NOT NULL,
    answer text NOT NULL,
    sources jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, interaction_id)
);
CREATE INDEX interactions_by_session ON flotilla.interactions (tenant_id, session_id, created_at);

CREATE TABLE flotilla.agent_actions (
    tenant_id text NOT NULL,
    action_seq bigint GENERATED ALWAYS AS IDENTITY,
    agent_id text NOT NULL,
    session_id text NOT NULL,
    task_id text NOT NULL,
    action_type text NOT NULL,
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, action_seq)
);
CREATE INDEX agent_actions_by_session ON flotilla.agent_actions (tenant_id, session_id, action_seq);

-- One row per delegated task: the answer to its latest try. Only `done` is final.
CREATE TABLE flotilla.agent_tasks (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    agent text NOT NULL,
    session_id text NOT NULL,
    run_id text,
    status text NOT NULL CHECK (status IN ('queued', 'done', 'failed', 'dead_lettered', 'cancelled')),
    attempt integer NOT NULL DEFAULT 1,
    entry_id text,
    input_hash bytea,
    result jsonb,
    failure jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    duration_ms double precision,
    PRIMARY KEY (tenant_id, task_id)
);
CREATE INDEX agent_tasks_by_run ON flotilla.agent_tasks (tenant_id, run_id) WHERE run_id IS NOT NULL;

-- Model answers, stored before they are used, so that none is bought twice.
CREATE TABLE flotilla.llm_calls (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    call_index integer NOT NULL,
    request_hash bytea NOT NULL,
    run_id text,
    session_id text NOT NULL,
    agent text NOT NULL,
    model text NOT NULL,
    answer jsonb NOT NULL,
    input_tokens bigint NOT NULL,
    output_tokens bigint NOT NULL,
    duration_ms double precision NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, task_id, call_index, request_hash)
);
CREATE INDEX llm_calls_by_run ON flotilla.llm_calls (tenant_id, run_id) WHERE run_id IS NOT NULL;

-- Committed session events on their way to Kafka; the relay deletes them after Kafka's acknowledgement.
CREATE TABLE flotilla.event_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane smallint NOT NULL,
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    body bytea NOT NULL CHECK (octet_length(body) <= 900000),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE flotilla.dead_letters (
    tenant_id text NOT NULL,
    dead_letter_id text NOT NULL,
    stream text NOT NULL,
    consumer_group text NOT NULL,
    entry_id text NOT NULL,
    task_id text,
    session_id text,
    run_id text,
    event_type text,
    reason text NOT NULL,
    error text NOT NULL,
    attempts integer NOT NULL,
    body bytea NOT NULL,
    fields jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    redriven_at timestamptz,
    discarded_at timestamptz,
    PRIMARY KEY (tenant_id, dead_letter_id),
    UNIQUE (tenant_id, stream, entry_id)
);
CREATE INDEX dead_letters_open ON flotilla.dead_letters (stream) WHERE redriven_at IS NULL AND discarded_at IS NULL;

SELECT flotilla_ops.protect(oid::regclass) FROM pg_class
    WHERE relnamespace = 'flotilla'::regnamespace AND relkind = 'r';

GRANT SELECT, INSERT, UPDATE ON
    flotilla.people, flotilla.api_keys, flotilla.sessions, flotilla.runs, flotilla.idempotency_keys,
    flotilla.agent_tasks, flotilla.dead_letters TO flotilla_app;
GRANT SELECT, INSERT ON flotilla.interactions, flotilla.agent_actions, flotilla.llm_calls, flotilla.event_outbox
    TO flotilla_app;

SELECT flotilla_ops.open_to('flotilla.event_outbox', 'flotilla_relay');
GRANT SELECT, DELETE ON flotilla.event_outbox TO flotilla_relay;

-- Fleet-wide, without tenant rows.
CREATE TABLE flotilla_ops.leases (
    name text PRIMARY KEY,
    owner text NOT NULL,
    epoch bigint NOT NULL DEFAULT 1,
    expires_at timestamptz NOT NULL
);
CREATE TABLE flotilla_ops.agents (
    name text NOT NULL,
    instance text NOT NULL,
    version text NOT NULL,
    stream text NOT NULL,
    consumer_group text NOT NULL,
    concurrency integer NOT NULL,
    in_flight integer NOT NULL DEFAULT 0,
    input_schema jsonb NOT NULL,
    output_schema jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    last_seen timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, instance)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.leases TO flotilla_app, flotilla_relay, flotilla_audit;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.agents TO flotilla_app;

-- Which migrations are applied: every service waits for the newest it knows.
GRANT SELECT ON ALL TABLES IN SCHEMA flotilla_ops TO flotilla_app, flotilla_relay, flotilla_audit, flotilla_scaler;

SELECT flotilla_ops.open_to(t, 'flotilla_definer')
    FROM unnest(ARRAY['flotilla.api_keys', 'flotilla.people', 'flotilla.runs']::regclass[]) AS t;
GRANT SELECT ON flotilla.api_keys, flotilla.people, flotilla.runs TO flotilla_definer;

-- Finds who a hashed API key belongs to, before the tenant is known. NULL columns never match.
CREATE FUNCTION flotilla.authenticate(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, roles text[], is_person boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT k.tenant_id, k.key_id, k.subject, k.roles, p.subject IS NOT NULL
    FROM flotilla.api_keys AS k
    LEFT JOIN flotilla.people AS p ON p.tenant_id = k.tenant_id AND p.subject = k.subject
    WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    $$;
ALTER FUNCTION flotilla.authenticate(bytea) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.authenticate(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.authenticate(bytea) TO flotilla_app;

-- Runs whose workflow was never started (the gateway died between commit and start); any tenant's.
CREATE FUNCTION flotilla.unstarted_runs(older_than interval, at_most integer)
    RETURNS TABLE (tenant_id text, run_id text, workflow_id text, request jsonb, traceparent text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent FROM flotilla.runs AS r
    WHERE r.status = 'pending' AND r.created_at < now() - older_than
    ORDER BY r.created_at LIMIT at_most
    $$;
ALTER FUNCTION flotilla.unstarted_runs(interval, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.unstarted_runs(interval, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.unstarted_runs(interval, integer) TO flotilla_app;
