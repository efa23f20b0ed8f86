-- Where the tenant's audit session records the request, so that the audit consumer looks at one event, not at all. Rows that a
-- gateway of the former version adds have none.
ALTER TABLE audit.archives ADD COLUMN recorded_seq bigint;
GRANT UPDATE (recorded_seq) ON audit.archives TO flotilla_gateway, flotilla_app;

-- Whether the tenant's audit session says, as projected, that everything of this request was archived.
CREATE FUNCTION audit.is_archive_recorded(tenant text, request text) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT pg_has_role(session_user, 'flotilla_audit', 'USAGE') AND NOT EXISTS (
        SELECT FROM audit.archives AS a WHERE a.tenant_id = tenant AND a.request_id = request AND NOT EXISTS (
            SELECT FROM audit.session_events AS e
            WHERE e.tenant_id = a.tenant_id AND e.session_id = 'flotilla:audit'
              AND e.seq >= coalesce(a.recorded_seq, 0) AND e.seq <= coalesce(a.recorded_seq, 9223372036854775807)
              AND e.event #>> '{source}' = '/gateway' AND e.event #>> '{data,change}' = 'audit_archive_made'
              AND e.event #> '{data,details,sessions}' @> jsonb_build_array(jsonb_build_object(
                  'session_id', a.session_id, 'seq', a.seq, 'hash', encode(a.hash, 'hex')))))
    $$;
ALTER FUNCTION audit.is_archive_recorded(text, text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.is_archive_recorded(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.is_archive_recorded(text, text) TO flotilla_audit;

-- As in 0131, but that a session stays while the outbox has events of it: the relay may put them into Kafka again.
CREATE OR REPLACE FUNCTION audit.archivable_sessions(tenant text, before timestamptz, after text, at_most integer, only_these text[])
    RETURNS TABLE (session_id text, seq bigint, hash bytea, newest_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT h.session_id, h.seq, h.hash, e.occurred_at
    FROM audit.session_heads AS h
    JOIN flotilla.sessions AS s ON s.tenant_id = h.tenant_id AND s.session_id = h.session_id AND s.head_seq = h.seq
    JOIN audit.session_events AS e ON e.tenant_id = h.tenant_id AND e.session_id = h.session_id AND e.seq = h.seq
    WHERE h.tenant_id = tenant AND h.session_id > after AND (only_these IS NULL OR h.session_id = ANY (only_these))
      AND (tenant = flotilla_ops.current_tenant() OR pg_has_role(session_user, 'flotilla_audit', 'USAGE'))
      AND h.session_id <> 'flotilla:audit' AND h.archived_seq = 0 AND NOT h.dirty AND e.occurred_at < before
      AND NOT flotilla_ops.is_suspended(tenant)
      AND h.session_id NOT IN (SELECT o.session_id FROM flotilla.event_outbox AS o WHERE o.tenant_id = tenant)
      AND EXISTS (SELECT FROM audit.standing_heads AS c WHERE c.tenant_id = h.tenant_id AND c.session_id = h.session_id
                  AND c.seq = h.seq AND c.hash = h.hash)
      AND NOT EXISTS (SELECT FROM audit.parked_events AS p WHERE p.tenant_id = h.tenant_id
                      AND p.session_id = h.session_id AND p.reason <> 'discarded')
      AND NOT EXISTS (SELECT FROM flotilla.sessions AS f LEFT JOIN audit.session_heads AS o
                      ON o.tenant_id = f.tenant_id AND o.session_id = f.session_id
                      WHERE f.tenant_id = h.tenant_id AND f.parent_session_id = h.session_id
                        AND coalesce(o.archived_seq, 0) < f.head_seq)
      AND NOT EXISTS (SELECT FROM flotilla.runs AS r WHERE r.tenant_id = h.tenant_id AND r.session_id = h.session_id
                      AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
      AND NOT EXISTS (SELECT FROM flotilla.pipelines AS w WHERE w.tenant_id = h.tenant_id
                      AND w.session_id = h.session_id AND w.finished_at IS NULL)
      AND NOT EXISTS (SELECT FROM flotilla.actions AS w WHERE w.tenant_id = h.tenant_id
                      AND w.session_id = h.session_id AND w.finished_at IS NULL)
      AND NOT EXISTS (SELECT FROM flotilla.orders AS w WHERE w.tenant_id = h.tenant_id
                      AND w.session_id = h.session_id AND w.finished_at IS NULL)
      AND h.session_id NOT IN (SELECT flotilla.held_sessions(tenant))
    ORDER BY h.session_id LIMIT at_most
    $$;
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_policy
                   WHERE polrelid = 'flotilla.event_outbox'::regclass AND polname = 'flotilla_definer_all') THEN
        PERFORM flotilla_ops.open_to('flotilla.event_outbox', 'flotilla_definer');
    END IF;
END
$$;
GRANT SELECT ON flotilla.event_outbox TO flotilla_definer;

-- Up to where the session's events are in an archive. It stays so until the caller's transaction ends: the archive takes a lock
-- of the row that this one excludes, and sees then what the caller did.
CREATE FUNCTION audit.kept_from_archives(tenant text, session text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM FROM flotilla.sessions AS s
    WHERE s.tenant_id = tenant AND s.session_id = session AND tenant = flotilla_ops.current_tenant() FOR KEY SHARE;
    RETURN audit.archived_upto(tenant, session);
END
$$;
ALTER FUNCTION audit.kept_from_archives(text, text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.kept_from_archives(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.kept_from_archives(text, text) TO flotilla_gateway, flotilla_worker, flotilla_app;
