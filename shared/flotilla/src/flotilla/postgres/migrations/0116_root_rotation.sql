-- Another root key: the installer's role wraps the keys of tenants again. It sees nothing of what they wrap.

-- Keys of tenants that another root key than this one wraps.
CREATE FUNCTION flotilla.tenant_keys_of_other_roots(root text, at_most integer)
    RETURNS TABLE (tenant_id text, root_id text, wrapped_key bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT t.tenant_id, t.root_id, t.wrapped_key FROM flotilla.tenant_keys AS t
    WHERE t.root_id <> root ORDER BY t.tenant_id LIMIT at_most
    $$;
-- The same key, wrapped by another root key; false where the row is another one than was looked at.
CREATE FUNCTION flotilla.rewrap_tenant_key(tenant text, former bytea, root text, wrapped bytea) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    UPDATE flotilla.tenant_keys AS t SET root_id = root, wrapped_key = wrapped
    WHERE t.tenant_id = tenant AND t.wrapped_key = former;
    RETURN FOUND;
END
$$;
DO $$
DECLARE
    signature text;
BEGIN
    FOREACH signature IN ARRAY ARRAY[
        'flotilla.tenant_keys_of_other_roots(text, integer)', 'flotilla.rewrap_tenant_key(text, bytea, text, bytea)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_install', signature);
    END LOOP;
END
$$;
