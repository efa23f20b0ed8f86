-- Governed actions with their approvals and webhooks; orders with the tables their saga works on.

-- Where in the log an answer stands, and which stretches of the log were rolled back: what the next prompt shows.
ALTER TABLE flotilla.interactions ADD COLUMN message_seq bigint NOT NULL DEFAULT 0;
CREATE INDEX interactions_by_seq ON flotilla.interactions (tenant_id, session_id, message_seq);
CREATE TABLE flotilla.session_rollbacks (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    to_seq bigint NOT NULL CHECK (to_seq < seq),
    PRIMARY KEY (tenant_id, session_id, seq),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);

CREATE TABLE flotilla.actions (
    tenant_id text NOT NULL,
    action_id text NOT NULL,
    session_id text NOT NULL,
    workflow_id text NOT NULL,
    action text NOT NULL,
    description text NOT NULL,
    args jsonb NOT NULL,
    risk_level text NOT NULL CHECK (risk_level IN ('low', 'medium', 'high')),
    requested_by text NOT NULL,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN
        ('pending', 'running', 'awaiting_approval', 'completed', 'rejected', 'timeout', 'failed', 'cancelled')),
    current_step text NOT NULL DEFAULT 'analyze_action',
    approval_status text NOT NULL DEFAULT 'pending' CHECK (approval_status IN
        ('not_required', 'pending', 'approved', 'rejected', 'timeout', 'cancelled')),
    result jsonb,
    error jsonb,
    request jsonb NOT NULL,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, action_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);
CREATE INDEX actions_by_creation ON flotilla.actions (tenant_id, created_at DESC, action_id);
CREATE INDEX actions_by_session ON flotilla.actions (tenant_id, session_id);
CREATE INDEX actions_active ON flotilla.actions (created_at) WHERE finished_at IS NULL;

-- The inbox: what waits, or waited, for people.
CREATE TABLE flotilla.approvals (
    tenant_id text NOT NULL,
    approval_id text NOT NULL,
    session_id text NOT NULL,
    workflow_id text NOT NULL,
    run_id text,
    task_id text,
    action text NOT NULL,
    description text NOT NULL,
    args jsonb NOT NULL,
    content_hash text NOT NULL,
    risk_level text NOT NULL CHECK (risk_level IN ('low', 'medium', 'high')),
    reasons text[] NOT NULL,
    requested_by text NOT NULL,
    on_behalf_of text,
    requirement jsonb NOT NULL,
    policy_version text NOT NULL,
    quorum integer NOT NULL CHECK (quorum >= 1),
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'approved', 'rejected', 'timeout', 'cancelled')),
    votes jsonb NOT NULL DEFAULT '[]',
    created_at timestamptz NOT NULL DEFAULT now(),
    deadline_at timestamptz NOT NULL,
    reminder_at timestamptz,
    reminded_at timestamptz,
    decided_at timestamptz,
    PRIMARY KEY (tenant_id, approval_id)
);
CREATE INDEX approvals_by_creation ON flotilla.approvals (tenant_id, created_at DESC, approval_id);
CREATE INDEX approvals_pending ON flotilla.approvals (created_at) WHERE status = 'pending';

-- Every attempt to decide, refused ones too.
CREATE TABLE flotilla.approval_decisions (
    tenant_id text NOT NULL,
    approval_id text NOT NULL,
    attempt_id text NOT NULL,
    update_id text NOT NULL,
    subject text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('approve', 'reject', 'edit')),
    content_hash text NOT NULL,
    reason text,
    args jsonb,
    authenticated boolean NOT NULL DEFAULT true,
    policy_version text NOT NULL,
    outcome text NOT NULL DEFAULT 'attempted' CHECK (outcome IN ('attempted', 'counted', 'refused')),
    refusal text,
    answer jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, approval_id, attempt_id),
    FOREIGN KEY (tenant_id, approval_id) REFERENCES flotilla.approvals
);
CREATE UNIQUE INDEX approval_decisions_counted ON flotilla.approval_decisions (tenant_id, approval_id, update_id)
    WHERE outcome = 'counted';

CREATE TABLE flotilla.webhook_deliveries (
    tenant_id text NOT NULL,
    delivery_id text NOT NULL,
    approval_id text NOT NULL,
    kind text NOT NULL,
    url text NOT NULL,
    body bytea NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    last_status_code integer,
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz,
    PRIMARY KEY (tenant_id, delivery_id)
);
CREATE INDEX webhook_deliveries_by_approval ON flotilla.webhook_deliveries (tenant_id, approval_id);

-- What an action's handler did, by idempotency key: an action is executed once.
CREATE TABLE flotilla.action_executions (
    tenant_id text NOT NULL,
    idempotency_key text NOT NULL,
    action_id text NOT NULL,
    action text NOT NULL,
    content_hash text NOT NULL,
    result jsonb,
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, idempotency_key)
);

CREATE TABLE flotilla.publications (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    action_id text NOT NULL,
    answer jsonb NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, run_id)
);

CREATE TABLE flotilla.orders (
    tenant_id text NOT NULL,
    order_id text NOT NULL,
    session_id text NOT NULL,
    workflow_id text NOT NULL,
    user_id text NOT NULL,
    product_id text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor > 0),
    currency text NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'approved', 'rejected', 'compensation_failed')),
    confirmation text,
    reason text,
    approval text CHECK (approval IN ('approved', 'cancelled')),
    steps jsonb NOT NULL DEFAULT '[]',
    steps_version integer NOT NULL DEFAULT 0,
    request jsonb NOT NULL,
    traceparent text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    notified_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, order_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);
CREATE INDEX orders_by_creation ON flotilla.orders (tenant_id, created_at DESC, order_id);
CREATE INDEX orders_active ON flotilla.orders (created_at) WHERE finished_at IS NULL;

-- What a user has in the house. available + held reservations + spent never changes by an order, however it ends.
CREATE TABLE flotilla.accounts (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    currency text NOT NULL,
    available_minor bigint NOT NULL CHECK (available_minor >= 0),
    spent_minor bigint NOT NULL DEFAULT 0 CHECK (spent_minor >= 0),
    verified boolean NOT NULL DEFAULT true,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, user_id, currency)
);

-- A `cancelled` row that came before its step is a tombstone: the step's INSERT meets it and does nothing.
CREATE TABLE flotilla.reservations (
    tenant_id text NOT NULL,
    reservation_id text NOT NULL,
    order_id text NOT NULL,
    user_id text NOT NULL,
    currency text NOT NULL,
    amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
    status text NOT NULL CHECK (status IN ('held', 'captured', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, reservation_id)
);
CREATE INDEX reservations_by_order ON flotilla.reservations (tenant_id, order_id);

CREATE TABLE flotilla.verifications (
    tenant_id text NOT NULL,
    verification_id text NOT NULL,
    order_id text NOT NULL,
    user_id text NOT NULL,
    status text NOT NULL CHECK (status IN ('verified', 'cancelled')),
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, verification_id)
);
CREATE INDEX verifications_by_order ON flotilla.verifications (tenant_id, order_id);

SELECT flotilla_ops.protect(t) FROM unnest(ARRAY[
    'flotilla.session_rollbacks', 'flotilla.actions', 'flotilla.approvals', 'flotilla.approval_decisions',
    'flotilla.webhook_deliveries', 'flotilla.action_executions', 'flotilla.publications', 'flotilla.orders',
    'flotilla.accounts', 'flotilla.reservations', 'flotilla.verifications']::regclass[]) AS t;

GRANT SELECT, INSERT, UPDATE ON
    flotilla.actions, flotilla.approvals, flotilla.approval_decisions, flotilla.webhook_deliveries,
    flotilla.action_executions, flotilla.orders, flotilla.accounts, flotilla.reservations, flotilla.verifications
    TO flotilla_app;
GRANT SELECT, INSERT ON flotilla.publications, flotilla.session_rollbacks TO flotilla_app;

SELECT flotilla_ops.open_to(t, 'flotilla_definer')
    FROM unnest(ARRAY['flotilla.actions', 'flotilla.approvals', 'flotilla.orders']::regclass[]) AS t;
GRANT SELECT ON flotilla.actions, flotilla.approvals, flotilla.orders TO flotilla_definer;

-- Runs, actions and orders that nobody finished, oldest first, any tenant's: the worker's leader starts those whose
-- workflow never began (`unstarted`), and closes those whose workflow ended without them.
CREATE FUNCTION flotilla.unfinished_work(older_than interval, after timestamptz, unstarted boolean, at_most integer)
    RETURNS TABLE (kind text, tenant_id text, id text, workflow_id text, request jsonb, traceparent text,
                   created_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT * FROM (
        (SELECT 'run', r.tenant_id, r.run_id, r.workflow_id, r.request, r.traceparent, r.created_at
         FROM flotilla.runs AS r
         WHERE r.status IN ('pending', 'running', 'interrupted') AND (r.status = 'pending') = unstarted
           AND r.created_at < now() - older_than AND r.created_at > after
         ORDER BY r.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'action', a.tenant_id, a.action_id, a.workflow_id, a.request, a.traceparent, a.created_at
         FROM flotilla.actions AS a
         WHERE a.finished_at IS NULL AND (a.status = 'pending') = unstarted
           AND a.created_at < now() - older_than AND a.created_at > after
         ORDER BY a.created_at LIMIT at_most)
        UNION ALL
        (SELECT 'order', o.tenant_id, o.order_id, o.workflow_id, o.request, o.traceparent, o.created_at
         FROM flotilla.orders AS o
         WHERE o.finished_at IS NULL AND (o.started_at IS NULL) = unstarted
           AND o.created_at < now() - older_than AND o.created_at > after
         ORDER BY o.created_at LIMIT at_most)
    ) AS work (kind, tenant_id, id, workflow_id, request, traceparent, created_at)
    ORDER BY created_at LIMIT at_most
    $$;
CREATE INDEX runs_active ON flotilla.runs (created_at) WHERE status IN ('pending', 'running', 'interrupted');

-- What the leader shows of the inbox, over all tenants.
CREATE FUNCTION flotilla.approval_gauges()
    RETURNS TABLE (pending bigint, oldest_s double precision, overdue bigint, parked_orders bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT (SELECT count(*) FROM (SELECT FROM flotilla.approvals WHERE status = 'pending' LIMIT 10001) AS p),
           (SELECT coalesce(extract(epoch FROM now() - min(created_at)), 0)::double precision
            FROM flotilla.approvals WHERE status = 'pending'),
           (SELECT count(*) FROM (SELECT FROM flotilla.approvals
            WHERE status = 'pending' AND reminder_at < now() LIMIT 10001) AS d),
           (SELECT count(*) FROM (SELECT FROM flotilla.orders
            WHERE status = 'compensation_failed' AND finished_at IS NULL LIMIT 10001) AS o)
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.unfinished_work(interval, timestamptz, boolean, integer)', 'flotilla.approval_gauges()'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_app', signature);
    END LOOP;
END
$$;
