-- Four eyes by policy: what is asked for in privacy waits for as many further people as the policy said then. A legal hold wins
-- against a confirmation that waits, an erasure that is stuck in some sessions goes on in the others, and an erasure takes
-- the calls of MCP clients with it.

-- One row per person who confirmed a request, or an erasure.
CREATE TABLE flotilla.privacy_confirmations (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    confirmed_by text NOT NULL,
    confirmed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, request_id, confirmed_by)
);
-- What is asked for besides erasures, which have a table of their own.
CREATE TABLE flotilla.privacy_requests (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('export', 'retention')),
    -- Whom it is about, as `flotilla.contracts.identity` writes people.
    person text,
    details jsonb NOT NULL DEFAULT '{}',
    reason text NOT NULL,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    confirmations_needed integer NOT NULL CHECK (confirmations_needed >= 0),
    -- When the last of them came: from then on it is allowed, or done.
    confirmed_at timestamptz,
    PRIMARY KEY (tenant_id, request_id)
);
CREATE INDEX privacy_requests_by_time ON flotilla.privacy_requests (tenant_id, requested_at DESC);
-- For how many days what is over is kept; nothing is deleted of a kind that has no row.
CREATE TABLE flotilla.retention_policies (
    tenant_id text NOT NULL,
    kind text NOT NULL
        CHECK (kind IN ('sessions', 'runs', 'model_calls', 'documents', 'dead_letters', 'mcp_calls')),
    days integer NOT NULL CHECK (days BETWEEN 1 AND 36500),
    request_id text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kind)
);
SELECT flotilla_ops.protect(t), flotilla_ops.open_to(t, 'flotilla_definer')
FROM unnest(ARRAY['flotilla.privacy_confirmations', 'flotilla.privacy_requests', 'flotilla.retention_policies']::regclass[]) AS t;
GRANT SELECT ON flotilla.privacy_confirmations, flotilla.privacy_requests, flotilla.retention_policies TO flotilla_gateway;
GRANT INSERT (tenant_id, request_id, kind, person, details, reason, requested_by, confirmations_needed)
    ON flotilla.privacy_requests TO flotilla_gateway;
GRANT SELECT, INSERT ON flotilla.privacy_confirmations TO flotilla_definer;
GRANT SELECT, UPDATE (confirmed_at) ON flotilla.privacy_requests TO flotilla_definer;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.retention_policies TO flotilla_definer;

ALTER TABLE flotilla.erasures
    ADD COLUMN confirmations_needed integer NOT NULL DEFAULT 1 CHECK (confirmations_needed >= 1);
GRANT INSERT (confirmations_needed) ON flotilla.erasures TO flotilla_gateway;
INSERT INTO flotilla.privacy_confirmations (tenant_id, request_id, confirmed_by, confirmed_at)
SELECT tenant_id, erasure_id, confirmed_by, confirmed_at FROM flotilla.erasures WHERE confirmed_by IS NOT NULL;
-- Sessions that were tried longest ago come first, so that none that is stuck keeps others waiting.
ALTER TABLE flotilla.erasure_sessions ADD COLUMN tried_at timestamptz;
GRANT UPDATE (tried_at) ON flotilla.erasure_sessions TO flotilla_definer;

-- Who adds a hold and who destroys a key wait for each other, so that the one who comes second sees what the first did.
CREATE FUNCTION flotilla_ops.lock_person(tenant text, person text) RETURNS void
    LANGUAGE sql SET search_path = pg_catalog, pg_temp
    AS $$ SELECT pg_advisory_xact_lock(hashtextextended('flotilla:person:' || tenant || '/' || person, 0)) $$;
CREATE FUNCTION flotilla_ops.lock_held_person() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM flotilla_ops.lock_person(NEW.tenant_id, NEW.person);
    RETURN NEW;
END
$$;
CREATE TRIGGER lock_person BEFORE INSERT ON flotilla.legal_holds
    FOR EACH ROW EXECUTE FUNCTION flotilla_ops.lock_held_person();

-- Notes that this person confirms; `waiting` while others have to, `again` where they did before, NULL when it was the last.
CREATE FUNCTION flotilla.note_confirmation(tenant text, request text, who text, needed integer) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    INSERT INTO flotilla.privacy_confirmations (tenant_id, request_id, confirmed_by) VALUES (tenant, request, who)
    ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN
        RETURN 'again';
    ELSIF needed > (SELECT count(*) FROM flotilla.privacy_confirmations AS c
                    WHERE c.tenant_id = tenant AND c.request_id = request) THEN
        RETURN 'waiting';
    END IF;
    RETURN NULL;
END
$$;

-- As before, but that the hold is looked at under the lock, and that it may take more than one person.
CREATE OR REPLACE FUNCTION flotilla.confirm_erasure(tenant text, erasure text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
    refusal text;
BEGIN
    SELECT e.* INTO asked FROM flotilla.erasures AS e
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure AND tenant = flotilla_ops.current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF asked.confirmed_at IS NOT NULL THEN
        RETURN 'confirmed';
    ELSIF asked.requested_by = who THEN
        RETURN 'same';
    END IF;
    PERFORM flotilla_ops.lock_person(tenant, asked.person);
    -- Sessions that get their keys at the same time are waited for, or find that this one is destroyed.
    PERFORM FROM flotilla.person_keys AS p
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL FOR UPDATE;
    IF EXISTS (SELECT FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant AND h.person = asked.person) THEN
        RETURN 'held';
    END IF;
    refusal := flotilla.note_confirmation(tenant, erasure, who, asked.confirmations_needed);
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    INSERT INTO flotilla.erasure_sessions (tenant_id, erasure_id, session_id)
    SELECT tenant, erasure, k.session_id FROM flotilla.session_keys AS k
    JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    WHERE k.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    UPDATE flotilla.person_keys AS p SET wrapped_key = NULL, erased_at = now()
    WHERE p.tenant_id = tenant AND p.person = asked.person AND p.erased_at IS NULL;
    DELETE FROM flotilla.mcp_calls AS c USING flotilla.erasure_sessions AS s
    WHERE s.tenant_id = tenant AND s.erasure_id = erasure AND c.tenant_id = tenant AND c.session_id = s.session_id;
    UPDATE flotilla.erasures AS e SET confirmed_by = who, confirmed_at = now()
    WHERE e.tenant_id = tenant AND e.erasure_id = erasure;
    RETURN 'destroyed';
END
$$;
CREATE INDEX mcp_calls_by_session ON flotilla.mcp_calls (tenant_id, session_id);
SELECT flotilla_ops.open_to('flotilla.mcp_calls', 'flotilla_definer');
GRANT SELECT, DELETE ON flotilla.mcp_calls TO flotilla_definer;

-- The same for any other request; without a person it only looks whether it needs one. A change of retention is done with it.
CREATE FUNCTION flotilla.confirm_privacy_request(tenant text, request text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
    refusal text;
BEGIN
    SELECT r.* INTO asked FROM flotilla.privacy_requests AS r
    WHERE r.tenant_id = tenant AND r.request_id = request AND tenant = flotilla_ops.current_tenant() FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown';
    ELSIF asked.confirmed_at IS NOT NULL THEN
        RETURN 'confirmed';
    ELSIF asked.requested_by = who THEN
        RETURN 'same';
    ELSIF who IS NOT NULL THEN
        refusal := flotilla.note_confirmation(tenant, request, who, asked.confirmations_needed);
    ELSIF asked.confirmations_needed > 0 THEN
        refusal := 'waiting';
    END IF;
    IF refusal IS NOT NULL THEN
        RETURN refusal;
    END IF;
    UPDATE flotilla.privacy_requests AS r SET confirmed_at = now() WHERE r.tenant_id = tenant AND r.request_id = request;
    IF asked.kind = 'retention' THEN
        PERFORM flotilla.change_retention(tenant, request, asked.details ->> 'kind', (asked.details ->> 'days')::integer);
    END IF;
    RETURN 'allowed';
END
$$;
-- Without days nothing of that kind is deleted any more.
CREATE FUNCTION flotilla.change_retention(tenant text, request text, of_kind text, of_days integer) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF of_days IS NULL THEN
        DELETE FROM flotilla.retention_policies AS p WHERE p.tenant_id = tenant AND p.kind = of_kind;
    ELSE
        INSERT INTO flotilla.retention_policies (tenant_id, kind, days, request_id)
        VALUES (tenant, of_kind, of_days, request)
        ON CONFLICT (tenant_id, kind) DO UPDATE
            SET days = excluded.days, request_id = excluded.request_id, changed_at = now();
    END IF;
END
$$;

-- As before, but that the ones that are returned go to the end of the line.
CREATE OR REPLACE FUNCTION flotilla.unfinished_erasures(at_most integer)
    RETURNS TABLE (tenant_id text, erasure_id text, session_id text, is_recorded boolean)
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    WITH next AS MATERIALIZED (
        SELECT e.tenant_id, e.erasure_id, s.session_id, s.event_seq IS NOT NULL AS is_recorded
        FROM flotilla.erasures AS e
        LEFT JOIN flotilla.erasure_sessions AS s
            ON s.tenant_id = e.tenant_id AND s.erasure_id = e.erasure_id AND s.done_at IS NULL
        WHERE e.confirmed_at IS NOT NULL AND e.finished_at IS NULL
        ORDER BY s.tried_at NULLS FIRST, e.confirmed_at, s.session_id LIMIT at_most
    ), noted AS (
        UPDATE flotilla.erasure_sessions AS s SET tried_at = clock_timestamp() FROM next AS n
        WHERE s.tenant_id = n.tenant_id AND s.erasure_id = n.erasure_id AND s.session_id = n.session_id
    )
    SELECT n.tenant_id, n.erasure_id, n.session_id, n.is_recorded FROM next AS n
    $$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.note_confirmation(text, text, text, integer)', 'flotilla.confirm_privacy_request(text, text, text)',
        'flotilla.change_retention(text, text, text, integer)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION flotilla.confirm_privacy_request(text, text, text) TO flotilla_gateway;
