-- Retention leaves suspended tenants alone, a document is looked at again under the lock before it is removed, and what is
-- deleted of a tenant waits for holds that are being added and for events that are not in Kafka.

-- As before, but NULL for a suspended tenant, too: it loses nothing, and nothing is written of one that moves or is deleted.
CREATE OR REPLACE FUNCTION flotilla.kept_since(tenant text, of_kind text) RETURNS timestamptz
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT now() - make_interval(days => coalesce(
        (SELECT p.days FROM flotilla.retention_policies AS p WHERE p.tenant_id = tenant AND p.kind = of_kind),
        CASE WHEN of_kind = 'mcp_calls' THEN 7 END))
    WHERE NOT flotilla_ops.is_suspended(tenant)
    $$;
CREATE OR REPLACE FUNCTION flotilla.documents_to_expire(at_most bigint) RETURNS TABLE (tenant_id text, document_id text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    (SELECT d.tenant_id, d.document_id FROM flotilla.retention_policies AS p
     CROSS JOIN LATERAL flotilla.expired_rows(p.tenant_id, p.kind, flotilla.kept_since(p.tenant_id, p.kind), at_most, false)
         AS e
     JOIN flotilla.documents AS d ON d.ctid = e.place
     WHERE p.kind = 'documents' LIMIT at_most)
    UNION
    (SELECT d.tenant_id, d.document_id FROM flotilla.documents AS d
     JOIN flotilla.sessions AS s ON s.tenant_id = d.tenant_id AND s.session_id = d.attached_to
     WHERE s.expired_at IS NOT NULL AND NOT flotilla_ops.is_suspended(d.tenant_id)
       AND s.session_id NOT IN (SELECT flotilla.held_sessions(d.tenant_id)) LIMIT at_most)
    $$;
-- Whether a document that was listed is still over. A hold that is being added is waited for, and keeps it.
CREATE FUNCTION flotilla.document_is_expired(tenant text, document text) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    found record;
BEGIN
    IF tenant IS DISTINCT FROM flotilla_ops.current_tenant() OR flotilla_ops.is_suspended(tenant) THEN
        RETURN false;
    END IF;
    PERFORM flotilla_ops.lock_person(tenant, '*');
    SELECT d.updated_at, d.attached_to INTO found FROM flotilla.documents AS d
    WHERE d.tenant_id = tenant AND d.document_id = document;
    RETURN NOT coalesce(found.attached_to IN (SELECT flotilla.held_sessions(tenant)), false)
        AND (coalesce(found.updated_at < flotilla.kept_since(tenant, 'documents'), false)
             OR EXISTS (SELECT FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = found.attached_to
                        AND s.expired_at IS NOT NULL));
END
$$;
REVOKE ALL ON FUNCTION flotilla.document_is_expired(text, text) FROM PUBLIC;
ALTER FUNCTION flotilla.document_is_expired(text, text) OWNER TO flotilla_definer;
GRANT EXECUTE ON FUNCTION flotilla.document_is_expired(text, text) TO flotilla_gateway;

-- As before, but that a hold that is being added is waited for.
CREATE OR REPLACE FUNCTION flotilla.confirm_tenant_deletion(tenant text, who text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    asked record;
BEGIN
    PERFORM flotilla_ops.lock_person(tenant, '*');
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

-- As before, but that an event which is queued meanwhile is left for Kafka, and that NULL says that nothing could be removed
-- yet, which is not the same as that nothing is left.
CREATE OR REPLACE FUNCTION flotilla.purge_tenant(tenant text, at_most integer) RETURNS bigint
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
        RETURN NULL;
    END IF;
    FOR target IN SELECT p.polrelid::regclass FROM pg_policy AS p
        WHERE p.polname = 'mover' AND p.polrelid <> 'flotilla.event_outbox'::regclass ORDER BY p.polrelid DESC
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
