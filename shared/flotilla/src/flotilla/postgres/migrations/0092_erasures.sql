-- Erasing a person: asked for by one, confirmed by another, refused while a legal hold is there. The confirmation destroys the
-- key in one transaction; the worker's leader then ends runs and records the erasure in each session, however often it starts again.

CREATE TABLE flotilla.legal_holds (
    tenant_id text NOT NULL,
    person text NOT NULL,
    reason text NOT NULL,
    added_by text NOT NULL,
    added_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, person)
);
CREATE TABLE flotilla.erasures (
    tenant_id text NOT NULL,
    erasure_id text NOT NULL,
    person text NOT NULL,
    reason text NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    confirmed_by text,
    confirmed_at timestamptz,
    -- When no run of that person is left, and each session says so.
    finished_at timestamptz,
    PRIMARY KEY (tenant_id, erasure_id),
    CHECK (confirmed_by <> requested_by)
);
CREATE INDEX erasures_by_time ON flotilla.erasures (tenant_id, requested_at DESC);
CREATE TABLE flotilla.erasure_sessions (
    tenant_id text NOT NULL,
    erasure_id text NOT NULL,
    session_id text NOT NULL,
    -- Of the event that records it.
    event_seq bigint,
    done_at timestamptz,
    PRIMARY KEY (tenant_id, erasure_id, session_id),
    FOREIGN KEY (tenant_id, erasure_id) REFERENCES flotilla.erasures
);
CREATE INDEX erasure_sessions_open ON flotilla.erasure_sessions (tenant_id, erasure_id) WHERE done_at IS NULL;

SELECT flotilla_ops.protect(t), flotilla_ops.open_to(t, 'flotilla_definer')
FROM unnest(ARRAY['flotilla.legal_holds', 'flotilla.erasures', 'flotilla.erasure_sessions']::regclass[]) AS t;
GRANT SELECT, UPDATE (confirmed_by, confirmed_at) ON flotilla.erasures TO flotilla_definer;
GRANT SELECT ON flotilla.legal_holds TO flotilla_definer;
GRANT SELECT, INSERT ON flotilla.erasure_sessions TO flotilla_definer;
GRANT SELECT, INSERT, DELETE ON flotilla.legal_holds TO flotilla_gateway;
GRANT SELECT, INSERT (tenant_id, erasure_id, person, reason, requested_by) ON flotilla.erasures TO flotilla_gateway;
GRANT SELECT ON flotilla.erasure_sessions TO flotilla_gateway, flotilla_app;
GRANT SELECT, UPDATE (finished_at) ON flotilla.erasures TO flotilla_worker;
GRANT SELECT, UPDATE (event_seq, done_at) ON flotilla.erasure_sessions TO flotilla_worker;
-- As for every table that names a session (0026).
CREATE POLICY people ON flotilla.erasure_sessions AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = erasure_sessions.tenant_id AND s.session_id = erasure_sessions.session_id));

-- What an erasure of this person would reach: sessions whose text is encrypted with their key, sessions that hold text in
-- clear, runs that would end, and why it would be refused.
CREATE FUNCTION flotilla.erasure_plan(tenant text, subject text)
    RETURNS TABLE (encrypted_sessions bigint, clear_sessions bigint, open_runs bigint, held_for text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH theirs AS (
        SELECT s.session_id, k.session_id IS NOT NULL AS is_encrypted
        FROM flotilla.sessions AS s
        LEFT JOIN flotilla.session_keys AS k ON k.tenant_id = s.tenant_id AND k.session_id = s.session_id
        LEFT JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
        WHERE s.tenant_id = tenant AND tenant = flotilla_ops.current_tenant()
          AND coalesce(p.person, flotilla_ops.person_of(s.owner, s.user_id)) = subject
          AND (p.key_id IS NULL OR p.erased_at IS NULL)
    )
    SELECT count(*) FILTER (WHERE t.is_encrypted), count(*) FILTER (WHERE NOT t.is_encrypted),
        (SELECT count(*) FROM flotilla.runs AS r WHERE r.tenant_id = tenant AND r.session_id IN (SELECT session_id FROM theirs)
         AND r.status IN ('queued', 'pending', 'running', 'interrupted')),
        (SELECT h.reason FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant AND h.person = subject
         AND tenant = flotilla_ops.current_tenant())
    FROM theirs AS t
    $$;

-- Destroys the key of the person whom this erasure names, once a second one confirms it: `destroyed`, or why not.
CREATE FUNCTION flotilla.confirm_erasure(tenant text, erasure text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
BEGIN
    SELECT e.* INTO asked FROM flotilla.erasures AS e
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure AND tenant = flotilla_ops.current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF asked.confirmed_at IS NOT NULL THEN
        RETURN 'confirmed';
    ELSIF asked.requested_by = who THEN
        RETURN 'same';
    ELSIF EXISTS (SELECT FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant AND h.person = asked.person) THEN
        RETURN 'held';
    END IF;
    -- Sessions that get their keys at the same time are waited for, or find that this one is destroyed.
    PERFORM FROM flotilla.person_keys AS p
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL FOR UPDATE;
    INSERT INTO flotilla.erasure_sessions (tenant_id, erasure_id, session_id)
    SELECT tenant, erasure, k.session_id FROM flotilla.session_keys AS k
    JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    WHERE k.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    UPDATE flotilla.person_keys AS p SET wrapped_key = NULL, erased_at = now()
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    UPDATE flotilla.erasures AS e SET confirmed_by = who, confirmed_at = now()
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure;
    RETURN 'destroyed';
END
$$;

-- As before, but that a key which is being destroyed gets no further session.
CREATE OR REPLACE FUNCTION flotilla.add_keys(tenant text, session text, key_id text, root_id text, tenant_key bytea, person_key bytea,
                                  session_key bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF NOT flotilla.may_use_keys(tenant, session) THEN
        RETURN;
    END IF;
    INSERT INTO flotilla.tenant_keys (tenant_id, root_id, wrapped_key)
    VALUES (tenant, add_keys.root_id, tenant_key) ON CONFLICT DO NOTHING;
    INSERT INTO flotilla.person_keys (tenant_id, key_id, person, wrapped_key)
    SELECT tenant, add_keys.key_id, flotilla_ops.person_of(s.owner, s.user_id), person_key
    FROM flotilla.sessions AS s JOIN flotilla.tenant_keys AS t ON t.tenant_id = s.tenant_id
    WHERE s.tenant_id = tenant AND s.session_id = session AND t.wrapped_key = tenant_key
    ON CONFLICT DO NOTHING;
    INSERT INTO flotilla.session_keys (tenant_id, session_id, key_id, wrapped_key)
    SELECT tenant, session, p.key_id, session_key FROM flotilla.person_keys AS p
    WHERE p.tenant_id = tenant AND p.key_id = add_keys.key_id AND p.wrapped_key = person_key
    FOR KEY SHARE OF p
    ON CONFLICT DO NOTHING;
END
$$;

-- Erasures of all tenants that are not finished, and what is left of each: the worker's leader goes through them.
CREATE FUNCTION flotilla.unfinished_erasures(at_most integer)
    RETURNS TABLE (tenant_id text, erasure_id text, session_id text, is_recorded boolean)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT e.tenant_id, e.erasure_id, s.session_id, s.event_seq IS NOT NULL
    FROM flotilla.erasures AS e
    LEFT JOIN flotilla.erasure_sessions AS s ON s.tenant_id = e.tenant_id AND s.erasure_id = e.erasure_id AND s.done_at IS NULL
    WHERE e.confirmed_at IS NOT NULL AND e.finished_at IS NULL ORDER BY e.confirmed_at, s.session_id LIMIT at_most
    $$;
CREATE INDEX erasures_unfinished ON flotilla.erasures (confirmed_at) WHERE finished_at IS NULL;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.erasure_plan(text, text)', 'flotilla.confirm_erasure(text, text, text)',
        'flotilla.unfinished_erasures(integer)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION flotilla.erasure_plan(text, text), flotilla.confirm_erasure(text, text, text) TO flotilla_gateway;
GRANT EXECUTE ON FUNCTION flotilla.unfinished_erasures(integer) TO flotilla_worker;
