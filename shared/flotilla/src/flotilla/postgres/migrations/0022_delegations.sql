-- What the worker delegated: one row per hop and try, written before the task is published. Agents never write here.

CREATE TABLE flotilla.delegations (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    attempt integer NOT NULL,
    root_task_id text NOT NULL,
    hop integer NOT NULL,
    agent text NOT NULL,
    slip text[] NOT NULL,
    session_id text NOT NULL,
    run_id text,
    principal text,
    workflow_id text NOT NULL,
    workflow_run_id text NOT NULL,
    activity_id text NOT NULL,
    deadline timestamptz NOT NULL,
    -- SHA-256 of the task's `secret` (its UTF-8 bytes): who knows the secret holds the task.
    secret_hash bytea NOT NULL CHECK (octet_length(secret_hash) = 32),
    state text NOT NULL DEFAULT 'open'
        CHECK (state IN ('open', 'done', 'failed', 'cancelled', 'dead_lettered', 'superseded')),
    -- The published event and its ticket, byte for byte, until the row is closed.
    event bytea,
    ticket text,
    opened_at timestamptz NOT NULL DEFAULT now(),
    issued_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    PRIMARY KEY (tenant_id, task_id, attempt)
);
CREATE INDEX delegations_by_root ON flotilla.delegations (tenant_id, root_task_id, attempt);
SELECT flotilla_ops.protect('flotilla.delegations');
GRANT SELECT, INSERT, UPDATE ON flotilla.delegations TO flotilla_app;

-- Agents that were ever delegated to: whose reply streams are read, also of those that never register.
CREATE TABLE flotilla_ops.delegates (
    agent text PRIMARY KEY,
    last_seen timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.delegates TO flotilla_app;

-- The secret part of the name of a run's live stream. Runs of the former version keep the name without one.
ALTER TABLE flotilla.runs ADD COLUMN live_key text NOT NULL DEFAULT '';
ALTER TABLE flotilla.runs ALTER COLUMN live_key SET DEFAULT replace(gen_random_uuid()::text, '-', '');
