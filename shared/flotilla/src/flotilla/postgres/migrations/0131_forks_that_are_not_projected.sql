-- As in 0129, but that a fork keeps its parent here also while its own events are not projected yet.
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
