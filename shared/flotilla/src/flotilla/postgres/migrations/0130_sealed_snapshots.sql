-- Snapshots of stretches with encrypted events, encrypted with the session's key: who folds the session first leaves them for
-- others. The audit consumer, which makes the clear ones, has no keys.
CREATE TABLE flotilla.sealed_snapshots (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    first_seq bigint NOT NULL,
    seq bigint NOT NULL,
    earliest timestamptz NOT NULL,
    -- The chain's hash at `seq`: a session that has another history by now has no such snapshot.
    hash bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant_id, session_id, seq),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions
);
SELECT flotilla_ops.protect('flotilla.sealed_snapshots');
GRANT SELECT, INSERT, DELETE, UPDATE (first_seq, earliest, hash, body) ON flotilla.sealed_snapshots TO flotilla_gateway, flotilla_app;
CREATE POLICY people ON flotilla.sealed_snapshots AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = sealed_snapshots.tenant_id AND s.session_id = sealed_snapshots.session_id));
