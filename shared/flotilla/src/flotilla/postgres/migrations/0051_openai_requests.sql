-- Requests of OpenAI clients: which run a request started, and which conversation its answer continued. Written in the
-- transaction that starts the run, so that a retry finds it.
CREATE TABLE flotilla.openai_requests (
    tenant_id text NOT NULL,
    run_id text NOT NULL,
    session_id text NOT NULL,
    -- Who asked; a conversation is found again by the same person only.
    principal text NOT NULL,
    request_digest bytea NOT NULL,
    -- Of all messages up to the answer; NULL until it was sent.
    conversation_digest bytea,
    -- What a client reads again with the response: metadata, instructions and the like.
    parameters jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, run_id)
);
CREATE INDEX openai_requests_by_request ON flotilla.openai_requests (tenant_id, principal, request_digest, created_at DESC);
CREATE INDEX openai_requests_by_conversation
    ON flotilla.openai_requests (tenant_id, principal, conversation_digest, created_at DESC)
    WHERE conversation_digest IS NOT NULL;
SELECT flotilla_ops.protect('flotilla.openai_requests');
GRANT SELECT, INSERT, UPDATE (conversation_digest) ON flotilla.openai_requests TO flotilla_gateway, flotilla_app;
-- As for every table that names a session (0026).
CREATE POLICY people ON flotilla.openai_requests AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = openai_requests.tenant_id AND s.session_id = openai_requests.session_id))
    WITH CHECK ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = openai_requests.tenant_id AND s.session_id = openai_requests.session_id
                     AND flotilla_ops.has_access(s.visibility, s.owner, s.writers, (SELECT flotilla_ops.viewer_names()))));
