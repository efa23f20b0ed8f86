-- Services that append events to sessions by the API, as `/services/<name>`: a right of the key, denied by default.
ALTER TABLE flotilla.api_keys ADD COLUMN appends_as text CHECK (appends_as ~ '^[a-z][a-z0-9-]{0,62}$');

-- As before; the gateway writes in its own name, and in that of such services.
CREATE OR REPLACE FUNCTION flotilla.append_events(tenant text, session text, expected bigint, lane smallint, ids uuid[],
                                                  heads bytea[], tails bytea[], trace text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF tenant IS DISTINCT FROM flotilla_ops.current_tenant() THEN
        RETURN NULL;
    END IF;
    IF NOT pg_has_role(session_user, 'flotilla_worker', 'USAGE') AND NOT pg_has_role(session_user, 'flotilla_app', 'USAGE')
        AND EXISTS (SELECT FROM unnest(heads, tails) AS e (head, tail),
                        LATERAL (SELECT convert_from(e.head || '0'::bytea || e.tail, 'UTF8')::json ->> 'source' AS source) AS w
                    WHERE w.source IS DISTINCT FROM '/gateway' AND NOT coalesce(starts_with(w.source, '/services/'), false))
    THEN
        RAISE insufficient_privilege USING MESSAGE = 'the gateway appends events with the source /gateway only';
    END IF;
    RETURN flotilla.append_rows(tenant, session, expected, lane, ids, heads, tails, trace);
END
$$;
