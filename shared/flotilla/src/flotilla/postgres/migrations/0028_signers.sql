-- The keys with which people sign votes. A row proves nothing: what counts are the signatures in it, up to a root that
-- only the executor's configuration holds.
CREATE TABLE flotilla.signers (
    tenant_id text NOT NULL,
    signer_id text NOT NULL,
    subject text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('passkey', 'ssh', 'ed25519')),
    name text NOT NULL,
    fingerprint text NOT NULL,
    credential_id text NOT NULL DEFAULT '',
    -- The person's statement and signature, and the approving administrator's: JSON of `flotilla.contracts.votes.Signed`.
    statement jsonb NOT NULL,
    approval jsonb,
    roles text[] NOT NULL DEFAULT '{}',
    approved_by text,
    approved_at timestamptz,
    expires_at timestamptz,
    revoked_by text,
    revoked_at timestamptz,
    -- Of a passkey: the highest counter of a vote. One that does not grow is that of a copy.
    sign_count bigint NOT NULL DEFAULT 0,
    last_attempt_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, signer_id),
    UNIQUE (tenant_id, fingerprint)
);
CREATE INDEX signers_by_creation ON flotilla.signers (tenant_id, created_at DESC, signer_id);
SELECT flotilla_ops.protect('flotilla.signers');
GRANT SELECT, INSERT, UPDATE ON flotilla.signers TO flotilla_app;
-- The gateway keeps what people sent; the worker counts the use of a passkey.
GRANT SELECT, INSERT, UPDATE (approval, roles, approved_by, approved_at, expires_at, revoked_by, revoked_at)
    ON flotilla.signers TO flotilla_gateway;
GRANT SELECT, UPDATE (sign_count, last_attempt_id) ON flotilla.signers TO flotilla_worker;
-- The worker proves each vote from the log before it executes. The projection's next generation takes the place of the
-- present one, so both have the same rights.
GRANT USAGE ON SCHEMA audit TO flotilla_worker;
GRANT SELECT ON audit.session_events, audit.parked_events, audit_next.session_events, audit_next.parked_events,
    flotilla.event_outbox TO flotilla_worker;
GRANT EXECUTE ON FUNCTION audit.next_offset(integer) TO flotilla_worker;

-- Where in the session's log a counted vote is.
ALTER TABLE flotilla.approval_decisions ADD COLUMN event_seq bigint;
