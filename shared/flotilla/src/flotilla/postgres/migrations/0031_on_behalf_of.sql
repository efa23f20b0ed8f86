-- Services that act on behalf of people: whose people a key may act for, by issuer (`flotilla.contracts.identity`); NULL
-- for a key without that right.
ALTER TABLE flotilla.api_keys ADD COLUMN acts_for text CHECK (acts_for <> '');

-- The service that acted where somebody asked through one. The gateway says for each transaction whose it is: a person's,
-- a service's, or both.
CREATE FUNCTION flotilla_ops.acted_by() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT nullif(current_setting('flotilla.service', true), '')
    WHERE nullif(current_setting('flotilla.person', true), '') IS NOT NULL
    $$;
ALTER TABLE flotilla.sessions ADD COLUMN acted_by text DEFAULT flotilla_ops.acted_by();
ALTER TABLE flotilla.runs ADD COLUMN acted_by text DEFAULT flotilla_ops.acted_by();
ALTER TABLE flotilla.pipelines ADD COLUMN acted_by text DEFAULT flotilla_ops.acted_by();

-- The same as before, with the right to act for others.
DROP FUNCTION flotilla.authenticate(bytea);
CREATE FUNCTION flotilla.authenticate(hash bytea)
    RETURNS TABLE (tenant_id text, key_id text, subject text, roles text[], is_person boolean, expires_at timestamptz,
                   acts_for text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT k.tenant_id, k.key_id, k.subject, k.roles, p.subject IS NOT NULL, k.expires_at, k.acts_for
    FROM flotilla.api_keys AS k
    LEFT JOIN flotilla.people AS p ON p.tenant_id = k.tenant_id AND p.subject = k.subject
    WHERE k.key_hash = hash AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
    $$;
ALTER FUNCTION flotilla.authenticate(bytea) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.authenticate(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.authenticate(bytea) TO flotilla_app, flotilla_gateway;
