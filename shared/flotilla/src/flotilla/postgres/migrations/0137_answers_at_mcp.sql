-- What the user of an MCP client answered that was not taken: a task of the protocol asks each time under a new key, and not for ever.

ALTER TABLE flotilla.mcp_calls
    -- Questions, each as often as an answer to it did not fit.
    ADD COLUMN misfits text[] NOT NULL DEFAULT '{}',
    -- Questions that the user of a task's client does not answer.
    ADD COLUMN declined text[] NOT NULL DEFAULT '{}';
GRANT UPDATE (misfits, declined) ON flotilla.mcp_calls TO flotilla_gateway, flotilla_app;
