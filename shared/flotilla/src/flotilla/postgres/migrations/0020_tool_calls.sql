-- Each time that an agent began a call of a tool: written before the tool runs, answered before the result is used.
CREATE TABLE flotilla.tool_calls (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    tool text NOT NULL,
    args_hash bytea NOT NULL,
    occurrence integer NOT NULL,
    start_no integer NOT NULL,
    call_id text NOT NULL,
    session_id text NOT NULL,
    agent text NOT NULL,
    -- The data of its tool_call event.
    called jsonb NOT NULL,
    approval_id text,
    expires_at timestamptz NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    -- NULL while it runs, or for good if its process died.
    outcome text CHECK (outcome IN ('returned', 'refused', 'raised')),
    result jsonb,
    -- Where in the result text stands for what no store holds, as JSON pointers.
    escaped text[] NOT NULL DEFAULT '{}',
    error text,
    recorded boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, task_id, tool, args_hash, occurrence, start_no)
);
SELECT flotilla_ops.protect('flotilla.tool_calls');
GRANT SELECT, INSERT, UPDATE ON flotilla.tool_calls TO flotilla_app;
