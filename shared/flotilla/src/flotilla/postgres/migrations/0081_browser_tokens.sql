-- Short-lived tokens for web pages: a person (or a service) made them, and they are worth a few sessions of theirs.
CREATE TABLE flotilla.browser_tokens (
    tenant_id text NOT NULL,
    token_id text NOT NULL,
    secret_hash bytea NOT NULL UNIQUE,
    -- Who made it, as `flotilla.sign_ins` has people; the service that acted for them.
    subject text NOT NULL,
    issuer text NOT NULL,
    groups text[] NOT NULL DEFAULT '{}',
    is_person boolean NOT NULL,
    acted_by text,
    -- The key with which it was made, and with which it ends; NULL where the OpenID provider vouched for them.
    key_id text,
    sessions text[] NOT NULL CHECK (cardinality(sessions) > 0),
    scopes text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'run'] AND 'read' = ANY (scopes)),
    -- What it may start, if anything.
    workflows text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL CHECK (expires_at <= created_at + interval '25 hours'),
    PRIMARY KEY (tenant_id, token_id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES flotilla.api_keys
);
CREATE INDEX browser_tokens_by_expiry ON flotilla.browser_tokens (expires_at);
SELECT flotilla_ops.protect('flotilla.browser_tokens');
GRANT INSERT (tenant_id, token_id, secret_hash, subject, issuer, groups, is_person, acted_by, key_id, sessions, scopes,
    workflows, expires_at) ON flotilla.browser_tokens TO flotilla_gateway;
SELECT flotilla_ops.open_to('flotilla.browser_tokens', 'flotilla_definer');
GRANT SELECT, DELETE, UPDATE (expires_at) ON flotilla.browser_tokens TO flotilla_definer;

-- Whose token it is, before the tenant is known: nobody's when the key that made it is revoked or over.
CREATE FUNCTION flotilla.authenticate_browser_token(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, is_person boolean, expires_at timestamptz, issuer text,
                   groups text[], acted_by text, token_id text, sessions text[], scopes text[], workflows text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT t.tenant_id, t.key_id, t.subject, t.is_person, least(t.expires_at, k.expires_at), t.issuer, t.groups,
        t.acted_by, t.token_id, t.sessions, t.scopes, t.workflows
    FROM flotilla.browser_tokens AS t
    LEFT JOIN flotilla.api_keys AS k ON k.tenant_id = t.tenant_id AND k.key_id = t.key_id
    WHERE t.secret_hash = hash AND t.expires_at > now()
      AND (t.key_id IS NULL OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))
    $$;

-- Forgets tokens of every tenant that are over; how many it did.
CREATE FUNCTION flotilla.forget_browser_tokens(at_most integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH gone AS (
        DELETE FROM flotilla.browser_tokens WHERE ctid IN (
            SELECT t.ctid FROM flotilla.browser_tokens AS t
            WHERE t.expires_at < now() ORDER BY t.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING 1
    )
    SELECT count(*) FROM gone
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.authenticate_browser_token(bytea)',
                                     'flotilla.forget_browser_tokens(integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_gateway', signature);
    END LOOP;
END
$$;

-- The sessions to which a transaction is bound, whatever else its person may see; NULL where it is bound to none. All that
-- belongs to a session is seen through `flotilla.sessions`, so that this one policy bounds it all.
CREATE FUNCTION flotilla_ops.bound_sessions() RETURNS text[] LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT nullif(current_setting('flotilla.bound_sessions', true), '')::text[] $$;
CREATE POLICY bound ON flotilla.sessions AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.bound_sessions()) IS NULL
        OR session_id = ANY ((SELECT flotilla_ops.bound_sessions())::text[]));

-- The same for functions that change a session with the rights of their owner.
CREATE FUNCTION flotilla_ops.check_bound() RETURNS trigger LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = 'row-level security: the token is not for this session';
END
$$;
CREATE TRIGGER check_bound BEFORE UPDATE ON flotilla.sessions FOR EACH ROW
    WHEN (NOT OLD.session_id = ANY (flotilla_ops.bound_sessions())) EXECUTE FUNCTION flotilla_ops.check_bound();
