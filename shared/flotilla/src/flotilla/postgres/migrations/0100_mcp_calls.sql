-- Calls that came by `/mcp`: an equal call of the same caller continues the one that is open, and gets the answer of one
-- that was to be called again.
CREATE TABLE flotilla.mcp_calls (
    tenant_id text NOT NULL,
    -- Of the task or the run that the call is.
    call_id text NOT NULL,
    is_run boolean NOT NULL,
    session_id text NOT NULL,
    -- Who called, and through which service.
    principal text NOT NULL,
    -- Of the tool, its arguments and the key that the client chose.
    digest bytea NOT NULL,
    -- The client's session and its name of the request, for `notifications/cancelled`; NULL without a session.
    request text,
    -- Whether the client was asked to call again, so that equal calls get this one's answer.
    is_to_repeat boolean NOT NULL DEFAULT false,
    -- Whether its answer was sent, or its id as that of an MCP task.
    is_answered boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, call_id)
);
CREATE INDEX mcp_calls_by_digest ON flotilla.mcp_calls (tenant_id, principal, digest, created_at DESC);
CREATE INDEX mcp_calls_by_request ON flotilla.mcp_calls (tenant_id, principal, request, created_at DESC)
    WHERE request IS NOT NULL;
SELECT flotilla_ops.protect('flotilla.mcp_calls');
GRANT SELECT, INSERT, UPDATE (request, is_to_repeat, is_answered) ON flotilla.mcp_calls TO flotilla_gateway, flotilla_app;
-- As for every table that names a session (0026).
CREATE POLICY people ON flotilla.mcp_calls AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = mcp_calls.tenant_id AND s.session_id = mcp_calls.session_id))
    WITH CHECK ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = mcp_calls.tenant_id AND s.session_id = mcp_calls.session_id
                     AND flotilla_ops.has_access(s.visibility, s.owner, s.writers, (SELECT flotilla_ops.viewer_names()))));
