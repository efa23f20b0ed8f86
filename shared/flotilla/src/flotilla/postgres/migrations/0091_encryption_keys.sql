-- Keys of encryption, each wrapped by the one above: session, person, tenant, and the root key, which is not in here.
-- Destroying a person's key is one update of one row; what is left of it says that it was there.

CREATE TABLE flotilla.tenant_keys (
    tenant_id text PRIMARY KEY,
    root_id text NOT NULL,
    wrapped_key bytea NOT NULL,
    -- A key of a transaction that may yet be rolled back is not kept by who made it.
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE flotilla.person_keys (
    tenant_id text NOT NULL,
    key_id text NOT NULL,
    -- As `flotilla.contracts.identity` writes it.
    person text NOT NULL,
    wrapped_key bytea,
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    erased_at timestamptz,
    PRIMARY KEY (tenant_id, key_id),
    CHECK ((wrapped_key IS NULL) = (erased_at IS NOT NULL))
);
-- Who comes back after an erasure gets a new key.
CREATE UNIQUE INDEX person_keys_in_use ON flotilla.person_keys (tenant_id, person) WHERE erased_at IS NULL;
CREATE INDEX person_keys_by_person ON flotilla.person_keys (tenant_id, person);
CREATE TABLE flotilla.session_keys (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    key_id text NOT NULL,
    wrapped_key bytea,
    made_in xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id),
    FOREIGN KEY (tenant_id, session_id) REFERENCES flotilla.sessions,
    FOREIGN KEY (tenant_id, key_id) REFERENCES flotilla.person_keys
);
CREATE INDEX session_keys_by_person ON flotilla.session_keys (tenant_id, key_id);

-- Nobody reads or writes the tables but by the functions below; people are limited as in every table (0026).
SELECT flotilla_ops.protect(t), flotilla_ops.open_to(t, 'flotilla_definer')
FROM unnest(ARRAY['flotilla.tenant_keys', 'flotilla.person_keys', 'flotilla.session_keys']::regclass[]) AS t;
GRANT SELECT, INSERT, UPDATE ON flotilla.tenant_keys, flotilla.person_keys, flotilla.session_keys TO flotilla_definer;
GRANT SELECT (tenant_id, session_id, key_id, created_at) ON flotilla.session_keys TO flotilla_gateway, flotilla_app;
CREATE POLICY people ON flotilla.session_keys AS RESTRICTIVE TO flotilla_gateway, flotilla_app
    USING ((SELECT flotilla_ops.sees_all())
        OR EXISTS (SELECT FROM flotilla.sessions AS s
                   WHERE s.tenant_id = session_keys.tenant_id AND s.session_id = session_keys.session_id));
SELECT flotilla_ops.open_to('flotilla.sessions', 'flotilla_definer')
WHERE NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = 'flotilla.sessions'::regclass AND polname = 'flotilla_definer_all');
GRANT SELECT ON flotilla.sessions TO flotilla_definer;

-- Whose data a session is: its owner's, or the user's for whom it was opened.
CREATE FUNCTION flotilla_ops.person_of(owner text, user_id text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT coalesce(owner, 'user/flotilla/' || replace(replace(user_id, '%', '%25'), '/', '%2F')) $$;

-- Whether the caller may have the keys of this session: services those of the transaction's tenant, agents those of the
-- session of the task that they hold, and of those that it was forked from.
CREATE FUNCTION flotilla.may_use_keys(tenant text, session text) RETURNS boolean
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF pg_has_role(session_user, 'flotilla_gateway', 'USAGE') OR pg_has_role(session_user, 'flotilla_worker', 'USAGE')
        OR pg_has_role(session_user, 'flotilla_app', 'USAGE') THEN
        RETURN tenant IS NOT DISTINCT FROM flotilla_ops.current_tenant();
    END IF;
    RETURN EXISTS (SELECT FROM flotilla.held_task() AS h
                   WHERE h.tenant_id = tenant AND h.session_id = session AND h.may_answer)
        OR EXISTS (SELECT FROM flotilla.task_sessions() AS s WHERE s.tenant_id = tenant AND s.session_id = session);
END
$$;

-- A session's keys as far as there are any; no row for one that the caller may not have, or that is not there.
CREATE FUNCTION flotilla.session_key(tenant text, session text)
    RETURNS TABLE (key_id text, session_key bytea, person_key bytea, tenant_key bytea, root_id text, is_erased boolean,
                   is_settled boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF NOT flotilla.may_use_keys(tenant, session) THEN
        RETURN;
    END IF;
    RETURN QUERY
    SELECT p.key_id, k.wrapped_key, p.wrapped_key, t.wrapped_key, t.root_id,
        k.session_id IS NOT NULL AND (k.wrapped_key IS NULL OR p.wrapped_key IS NULL),
        pg_current_xact_id_if_assigned() IS NULL
            OR NOT (pg_current_xact_id_if_assigned() = ANY (ARRAY[k.made_in, p.made_in, t.made_in]))
    FROM flotilla.sessions AS s
    LEFT JOIN flotilla.session_keys AS k ON k.tenant_id = s.tenant_id AND k.session_id = s.session_id
    LEFT JOIN flotilla.person_keys AS p ON p.tenant_id = s.tenant_id
        AND CASE WHEN k.key_id IS NULL THEN p.erased_at IS NULL AND p.person = flotilla_ops.person_of(s.owner, s.user_id)
                 ELSE p.key_id = k.key_id END
    LEFT JOIN flotilla.tenant_keys AS t ON t.tenant_id = s.tenant_id
    WHERE s.tenant_id = tenant AND s.session_id = session;
END
$$;

-- Adds those of a session's keys that are not there. A key counts only under the one that wraps it: who was second finds
-- the first one's when looking again.
CREATE FUNCTION flotilla.add_keys(tenant text, session text, key_id text, root_id text, tenant_key bytea, person_key bytea,
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
    ON CONFLICT DO NOTHING;
END
$$;

DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.may_use_keys(text, text)', 'flotilla.session_key(text, text)',
        'flotilla.add_keys(text, text, text, text, bytea, bytea, bytea)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION flotilla.session_key(text, text)
    TO flotilla_gateway, flotilla_worker, flotilla_agent, flotilla_app;
GRANT EXECUTE ON FUNCTION flotilla.add_keys(text, text, text, text, bytea, bytea, bytea)
    TO flotilla_gateway, flotilla_worker, flotilla_agent, flotilla_app;
