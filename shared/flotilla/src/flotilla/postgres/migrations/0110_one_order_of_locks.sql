-- As in 0092, but with the session's lock first: who appends has it, too, and may need the keys after it.
CREATE OR REPLACE FUNCTION flotilla.add_keys(tenant text, session text, key_id text, root_id text, tenant_key bytea, person_key bytea,
                                  session_key bytea) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
BEGIN
    IF NOT flotilla.may_use_keys(tenant, session) THEN
        RETURN;
    END IF;
    -- Before the keys, so that of two who begin one session none waits for the other with what the other waits for.
    PERFORM FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = session FOR NO KEY UPDATE;
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
