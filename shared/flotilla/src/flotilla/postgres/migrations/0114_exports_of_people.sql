-- Exports of a person: whose sessions are whose, and what the gateway reads for nothing else.

-- A person's sessions, those that they own and those that are encrypted with their key, in order of their ids.
CREATE FUNCTION flotilla.sessions_of_person(tenant text, subject text, after text, at_most integer)
    RETURNS TABLE (session_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT s.session_id FROM flotilla.sessions AS s
    LEFT JOIN flotilla.session_keys AS k ON k.tenant_id = s.tenant_id AND k.session_id = s.session_id
    LEFT JOIN flotilla.person_keys AS p ON p.tenant_id = k.tenant_id AND p.key_id = k.key_id
    WHERE s.tenant_id = tenant AND tenant = flotilla_ops.current_tenant() AND s.session_id > after
      AND subject IN (p.person, flotilla_ops.person_of(s.owner, s.user_id))
    ORDER BY s.session_id LIMIT at_most
    $$;
REVOKE ALL ON FUNCTION flotilla.sessions_of_person(text, text, text, integer) FROM PUBLIC;
ALTER FUNCTION flotilla.sessions_of_person(text, text, text, integer) OWNER TO flotilla_definer;
GRANT EXECUTE ON FUNCTION flotilla.sessions_of_person(text, text, text, integer) TO flotilla_gateway;

-- The gateway reads these in transactions that see all of a tenant, and no others do.
DO $$
DECLARE
    target regclass;
BEGIN
    FOREACH target IN ARRAY ARRAY['flotilla.tool_calls', 'flotilla.accounts', 'flotilla.publications']::regclass[] LOOP
        EXECUTE format('GRANT SELECT ON %s TO flotilla_gateway', target);
        EXECUTE format('CREATE POLICY exports ON %s AS RESTRICTIVE TO flotilla_gateway '
            'USING ((SELECT flotilla_ops.sees_all()))', target);
    END LOOP;
END
$$;
