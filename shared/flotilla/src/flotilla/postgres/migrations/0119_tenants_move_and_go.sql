-- Tenants that move to another fleet, or are deleted: a role that writes the rows of suspended tenants only, and what
-- operators asked for.

DO $$
BEGIN
    CREATE ROLE flotilla_mover NOLOGIN;
    GRANT flotilla_mover TO CURRENT_USER;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

ALTER TABLE flotilla_ops.tenants
    -- Which export it was imported from, if it was.
    ADD COLUMN imported_from text,
    ADD COLUMN deletion_asked_by text,
    ADD COLUMN deletion_asked_at timestamptz,
    ADD COLUMN deletion_reason text,
    ADD COLUMN deletion_confirmed_by text,
    ADD COLUMN deletion_confirmed_at timestamptz,
    ADD COLUMN deleted_at timestamptz,
    ADD CHECK ((deletion_asked_at IS NULL) = (deletion_asked_by IS NULL)
        AND (deletion_asked_at IS NULL) = (deletion_reason IS NULL)),
    ADD CHECK ((deletion_confirmed_at IS NULL) = (deletion_confirmed_by IS NULL)),
    ADD CHECK (deletion_confirmed_by <> deletion_asked_by),
    -- A tenant that is being deleted, or was, is never resumed.
    ADD CHECK (deletion_confirmed_at IS NULL OR (deletion_asked_at IS NOT NULL AND suspended_at IS NOT NULL));
CREATE INDEX tenants_to_delete ON flotilla_ops.tenants (deletion_confirmed_at)
    WHERE deletion_confirmed_at IS NOT NULL AND deleted_at IS NULL;
GRANT UPDATE (deletion_asked_by, deletion_asked_at, deletion_reason) ON flotilla_ops.tenants TO flotilla_gateway, flotilla_app;
GRANT UPDATE (deleted_at) ON flotilla_ops.tenants TO flotilla_worker;
CREATE POLICY deletion ON flotilla_ops.tenants FOR UPDATE TO flotilla_worker USING (deletion_confirmed_at IS NOT NULL);
CREATE POLICY confirmation ON flotilla_ops.tenants FOR UPDATE TO flotilla_definer USING (true);
GRANT UPDATE (deletion_confirmed_by, deletion_confirmed_at) ON flotilla_ops.tenants TO flotilla_definer;
CREATE POLICY moving ON flotilla_ops.tenants FOR SELECT TO flotilla_mover USING (true);
GRANT USAGE ON SCHEMA flotilla, flotilla_ops TO flotilla_mover;
GRANT CREATE ON SCHEMA flotilla TO flotilla_mover;
GRANT SELECT ON flotilla_ops.tenants TO flotilla_mover;

-- Opens every table of tenants to the mover, as far as a tenant is suspended. What other migrations add is opened by the
-- installer, which calls this after them.
CREATE FUNCTION flotilla_ops.open_to_mover() RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target regclass;
BEGIN
    FOR target IN SELECT c.oid::regclass FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped
        WHERE c.relnamespace = 'flotilla'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM pg_policy AS p WHERE p.polrelid = c.oid AND p.polname = 'mover')
    LOOP
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON %s TO flotilla_mover', target);
        EXECUTE format('CREATE POLICY mover ON %s TO flotilla_mover USING (flotilla_ops.is_suspended(tenant_id))', target);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION flotilla_ops.open_to_mover() FROM PUBLIC;

-- Destroys the keys of a tenant whose deletion one person asked for and another confirms: `destroyed`, or why not. From
-- then on nobody reads what was encrypted with them, and the worker's leader removes the rows.
CREATE FUNCTION flotilla.confirm_tenant_deletion(tenant text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
BEGIN
    SELECT t.* INTO asked FROM flotilla_ops.tenants AS t WHERE t.tenant_id = tenant FOR UPDATE;
    IF NOT FOUND OR asked.deletion_asked_at IS NULL THEN
        RETURN 'not asked';
    ELSIF asked.deletion_confirmed_at IS NOT NULL THEN
        RETURN 'confirmed';
    ELSIF asked.deletion_asked_by = who THEN
        RETURN 'same';
    ELSIF asked.suspended_at IS NULL THEN
        RETURN 'active';
    ELSIF EXISTS (SELECT FROM flotilla.legal_holds AS h WHERE h.tenant_id = tenant) THEN
        RETURN 'held';
    END IF;
    UPDATE flotilla.person_keys AS p SET wrapped_key = NULL, erased_at = now()
    WHERE p.tenant_id = tenant AND p.erased_at IS NULL;
    DELETE FROM flotilla.tenant_keys AS k WHERE k.tenant_id = tenant;
    UPDATE flotilla_ops.tenants AS t SET deletion_confirmed_by = who, deletion_confirmed_at = now()
    WHERE t.tenant_id = tenant;
    RETURN 'destroyed';
END
$$;
ALTER FUNCTION flotilla.confirm_tenant_deletion(text, text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.confirm_tenant_deletion(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.confirm_tenant_deletion(text, text) TO flotilla_gateway, flotilla_app;
GRANT DELETE ON flotilla.tenant_keys TO flotilla_definer;

-- Removes up to `at_most` rows of each table, of a tenant whose deletion is confirmed; returns how many. Rows that others
-- still refer to are left for the next call. Events go to Kafka first: without them the log would have a hole.
CREATE FUNCTION flotilla.purge_tenant(tenant text, at_most integer) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    target regclass;
    removed bigint;
    total bigint := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM flotilla_ops.tenants AS t
                   WHERE t.tenant_id = tenant AND t.deletion_confirmed_at IS NOT NULL AND t.deleted_at IS NULL)
        OR EXISTS (SELECT FROM flotilla.event_outbox AS o WHERE o.tenant_id = tenant) THEN
        RETURN 0;
    END IF;
    FOR target IN SELECT p.polrelid::regclass FROM pg_policy AS p WHERE p.polname = 'mover' ORDER BY p.polrelid DESC
    LOOP
        BEGIN
            EXECUTE format('DELETE FROM %1$s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE tenant_id = $1 LIMIT $2))', target)
                USING tenant, at_most;
            GET DIAGNOSTICS removed = ROW_COUNT;
            total := total + removed;
        EXCEPTION WHEN foreign_key_violation THEN
            NULL;
        END;
    END LOOP;
    RETURN total;
END
$$;
ALTER FUNCTION flotilla.purge_tenant(text, integer) OWNER TO flotilla_mover;
REVOKE ALL ON FUNCTION flotilla.purge_tenant(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.purge_tenant(text, integer) TO flotilla_worker;
REVOKE CREATE ON SCHEMA flotilla FROM flotilla_mover;

SELECT flotilla_ops.open_to_mover();
