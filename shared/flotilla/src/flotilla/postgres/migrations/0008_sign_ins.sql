-- People in the console: a row from login to logout, found by the hash of what their browser's cookie holds.
CREATE TABLE flotilla.sign_ins (
    tenant_id text NOT NULL,
    secret_hash bytea NOT NULL UNIQUE,
    subject text NOT NULL,
    roles text[] NOT NULL,
    is_person boolean NOT NULL,
    -- The API key that was given; NULL for people whom the OpenID provider vouched for.
    key_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, secret_hash),
    FOREIGN KEY (tenant_id, key_id) REFERENCES flotilla.api_keys
);
CREATE INDEX sign_ins_by_expiry ON flotilla.sign_ins (expires_at);
SELECT flotilla_ops.open_to('flotilla.sign_ins', 'flotilla_definer');
GRANT SELECT, DELETE, UPDATE (expires_at) ON flotilla.sign_ins TO flotilla_definer;
-- FOR UPDATE takes the right to change a column; without it nothing was ever forgotten.
GRANT UPDATE (created_at) ON flotilla.idempotency_keys TO flotilla_definer;
SELECT flotilla_ops.protect('flotilla.sign_ins');
GRANT SELECT, INSERT, DELETE ON flotilla.sign_ins TO flotilla_app;

-- Whose sign-in it is, before the tenant is known. One that was made with a key is worth what the key is worth now.
CREATE FUNCTION flotilla.authenticate_sign_in(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, roles text[], is_person boolean, expires_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT s.tenant_id, s.key_id, s.subject, coalesce(k.roles, s.roles),
        CASE WHEN s.key_id IS NULL THEN s.is_person ELSE p.subject IS NOT NULL END,
        least(s.expires_at, k.expires_at)
    FROM flotilla.sign_ins AS s
    LEFT JOIN flotilla.api_keys AS k ON k.tenant_id = s.tenant_id AND k.key_id = s.key_id
    LEFT JOIN flotilla.people AS p ON p.tenant_id = s.tenant_id AND p.subject = s.subject
    WHERE s.secret_hash = hash AND s.expires_at > now()
      AND (s.key_id IS NULL OR (k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())))
    $$;

-- Forgets sign-ins of every tenant that are over; how many it did.
CREATE FUNCTION flotilla.forget_sign_ins(at_most integer) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH gone AS (
        DELETE FROM flotilla.sign_ins WHERE ctid IN (
            SELECT s.ctid FROM flotilla.sign_ins AS s
            WHERE s.expires_at < now() ORDER BY s.expires_at LIMIT at_most FOR UPDATE SKIP LOCKED)
        RETURNING 1
    )
    SELECT count(*) FROM gone
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.authenticate_sign_in(bytea)', 'flotilla.forget_sign_ins(integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_app', signature);
    END LOOP;
END
$$;
