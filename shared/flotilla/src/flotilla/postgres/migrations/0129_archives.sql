-- Sessions that are over can be archived: their events are in a file, signed and verified, and no longer in the projection. The
-- head stays, and says up to where they are there; the next event of the session is chained to it.

ALTER TABLE audit.session_heads ADD COLUMN archived_seq bigint NOT NULL DEFAULT 0, ADD COLUMN archived_hash bytea,
    ADD CHECK ((archived_seq = 0) = (archived_hash IS NULL));
ALTER TABLE audit_next.session_heads ADD COLUMN archived_seq bigint NOT NULL DEFAULT 0, ADD COLUMN archived_hash bytea,
    ADD CHECK ((archived_seq = 0) = (archived_hash IS NULL));

CREATE TABLE audit.archives (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    -- The newest event in the file, its hash and its time.
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    newest_at timestamptz NOT NULL,
    -- Where the file is, as who archived it wrote it, and its SHA-256.
    file text NOT NULL,
    file_sha256 bytea NOT NULL CHECK (octet_length(file_sha256) = 32),
    request_id text NOT NULL,
    archived_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    -- When the events left the projection; the offsets that they have in Kafka, in order.
    archived_at timestamptz,
    offsets bigint[],
    restored_at timestamptz,
    PRIMARY KEY (tenant_id, session_id, seq)
);
CREATE INDEX archives_by_request ON audit.archives (tenant_id, request_id);
CREATE INDEX archives_by_time ON audit.archives (tenant_id, asked_at DESC, session_id);
-- Events on their way back from a file, until the audit consumer has checked them.
CREATE TABLE audit.returned_events (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    body bytea NOT NULL,
    returned_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id, seq)
);
DO $$
DECLARE
    target regclass;
BEGIN
    FOREACH target IN ARRAY ARRAY['audit.archives', 'audit.returned_events']::regclass[] LOOP
        PERFORM flotilla_ops.protect(target), flotilla_ops.open_to(target, 'flotilla_audit'),
            flotilla_ops.open_to(target, 'flotilla_definer');
        EXECUTE format($f$
            CREATE POLICY people ON %1$s AS RESTRICTIVE TO flotilla_gateway, flotilla_app
            USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.sessions AS s
                WHERE s.tenant_id = %2$I.tenant_id AND s.session_id = %2$I.session_id))
            $f$, target, (SELECT relname FROM pg_class WHERE oid = target));
        EXECUTE format('ALTER TABLE %s OWNER TO flotilla_definer', target);
    END LOOP;
END
$$;
GRANT SELECT, INSERT (tenant_id, session_id, seq, hash, newest_at, file, file_sha256, request_id, archived_by),
    UPDATE (file, file_sha256, request_id, archived_by, asked_at) ON audit.archives TO flotilla_gateway, flotilla_app;
GRANT SELECT, UPDATE (archived_at, offsets, restored_at) ON audit.archives TO flotilla_audit;
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.returned_events TO flotilla_gateway, flotilla_app;
GRANT SELECT, DELETE ON audit.returned_events TO flotilla_audit;

ALTER TABLE audit.requests DROP CONSTRAINT requests_kind_check, ADD CONSTRAINT requests_kind_check
    CHECK (kind IN ('rebuild', 'retry', 'discard', 'accept', 'reject', 'drop_kept', 'archive', 'restore'));

-- Sessions whose events may leave the projection, in order, behind `after`; only these, where some are named. Over, and
-- nothing newer than `before`; signed to the end; nothing open or parked; held by nobody; and no fork needs them.
CREATE FUNCTION audit.archivable_sessions(tenant text, before timestamptz, after text, at_most integer, only_these text[])
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
      AND NOT EXISTS (SELECT FROM flotilla.sessions AS f JOIN audit.session_heads AS o
                      ON o.tenant_id = f.tenant_id AND o.session_id = f.session_id
                      WHERE f.tenant_id = h.tenant_id AND f.parent_session_id = h.session_id
                        AND o.archived_seq < o.seq)
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
-- Whether this session may be archived at this moment, and up to where. Holds and events that come wait for the caller.
CREATE FUNCTION audit.may_archive(tenant text, session text, upto bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM flotilla_ops.lock_person(tenant, '*');
    PERFORM FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = session FOR UPDATE;
    RETURN EXISTS (SELECT FROM audit.archivable_sessions(tenant, 'infinity', '', 1, ARRAY[session]) AS a WHERE a.seq = upto);
END
$$;
-- What the tenant's audit session says was archived: of one session, or of all.
CREATE FUNCTION audit.recorded_archives(tenant text, only_session text)
    RETURNS TABLE (session_id text, seq bigint, hash text)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT a ->> 'session_id', (a ->> 'seq')::bigint, a ->> 'hash'
    FROM audit.session_events AS e CROSS JOIN LATERAL jsonb_array_elements(e.event #> '{data,details,sessions}') AS a
    WHERE e.tenant_id = tenant AND e.session_id = 'flotilla:audit'
      AND (tenant = flotilla_ops.current_tenant() OR pg_has_role(session_user, 'flotilla_audit', 'USAGE'))
      AND e.event #>> '{source}' = '/gateway' AND e.event #>> '{data,change}' = 'audit_archive_made'
      AND (only_session IS NULL OR a ->> 'session_id' = only_session)
    $$;
-- Up to where the session's events are in an archive; 0 where they are all here.
CREATE FUNCTION audit.archived_upto(tenant text, session text) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT coalesce(max(h.archived_seq), 0) FROM audit.session_heads AS h
    WHERE h.tenant_id = tenant AND h.session_id = session AND tenant = flotilla_ops.current_tenant()
    $$;

-- As in 0115, but that a session whose events are archived is over, too, once its newest one is old enough.
CREATE OR REPLACE FUNCTION flotilla.expired_rows(tenant text, of_kind text, before timestamptz, at_most bigint, with_held boolean,
                                      only_session text DEFAULT NULL)
    RETURNS TABLE (place tid, is_held boolean)
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    held CONSTANT text[] := ARRAY(SELECT flotilla.held_sessions(tenant));
BEGIN
    RETURN QUERY EXECUTE format($q$
        SELECT t.ctid, coalesce(t.session_id = ANY ($1), false) FROM (%s) AS t
        WHERE $5 OR NOT coalesce(t.session_id = ANY ($1), false) LIMIT $4
        $q$, CASE of_kind
        WHEN 'sessions' THEN $q$
            SELECT s.ctid, s.session_id FROM flotilla.sessions AS s
            WHERE s.tenant_id = $2 AND s.expired_at IS NULL AND s.created_at < $3 AND s.session_id <> 'flotilla:audit'
              AND ($6 IS NULL OR s.session_id = $6)
              AND (s.head_seq = 0 OR EXISTS (
                  SELECT FROM audit.session_events AS e WHERE e.tenant_id = s.tenant_id AND e.session_id = s.session_id
                  AND e.seq = s.head_seq AND e.occurred_at < $3)
                  OR EXISTS (SELECT FROM audit.archives AS a WHERE a.tenant_id = s.tenant_id AND a.session_id = s.session_id
                  AND a.seq = s.head_seq AND a.archived_at IS NOT NULL AND a.newest_at < $3))
              AND NOT EXISTS (SELECT FROM flotilla.runs AS r WHERE r.tenant_id = s.tenant_id
                  AND r.session_id = s.session_id AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
              AND NOT EXISTS (SELECT FROM flotilla.pipelines AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
              AND NOT EXISTS (SELECT FROM flotilla.actions AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
              AND NOT EXISTS (SELECT FROM flotilla.orders AS w
                  WHERE w.tenant_id = s.tenant_id AND w.session_id = s.session_id AND w.finished_at IS NULL)
            $q$
        WHEN 'runs' THEN $q$
            SELECT r.ctid, r.session_id FROM flotilla.runs AS r
            WHERE r.tenant_id = $2 AND r.finished_at < $3
              AND r.status NOT IN ('queued', 'pending', 'running', 'interrupted')
            $q$
        WHEN 'model_calls' THEN $q$
            SELECT c.ctid, c.session_id FROM flotilla.llm_calls AS c
            WHERE c.tenant_id = $2 AND c.created_at < $3 AND NOT EXISTS (
                SELECT FROM flotilla.runs AS r WHERE r.tenant_id = c.tenant_id AND r.run_id = c.run_id
                AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
            $q$
        WHEN 'documents' THEN $q$
            SELECT d.ctid, d.attached_to AS session_id FROM flotilla.documents AS d
            WHERE d.tenant_id = $2 AND d.updated_at < $3
            $q$
        WHEN 'dead_letters' THEN $q$
            SELECT l.ctid, l.session_id FROM flotilla.dead_letters AS l WHERE l.tenant_id = $2 AND l.created_at < $3
            $q$
        WHEN 'mcp_calls' THEN $q$
            SELECT c.ctid, c.session_id FROM flotilla.mcp_calls AS c
            WHERE c.tenant_id = $2 AND c.created_at < $3
              AND NOT EXISTS (SELECT FROM flotilla.runs AS r WHERE r.tenant_id = c.tenant_id AND r.run_id = c.call_id
                  AND r.status IN ('queued', 'pending', 'running', 'interrupted'))
              AND NOT EXISTS (SELECT FROM flotilla.pipelines AS w
                  WHERE w.tenant_id = c.tenant_id AND w.task_id = c.call_id AND w.finished_at IS NULL)
            $q$
        END)
    USING held, tenant, before, at_most, with_held, only_session;
END
$$;

DO $$
DECLARE
    target regclass;
    signature text;
BEGIN
    FOREACH target IN ARRAY ARRAY['audit.session_heads', 'audit_next.session_heads', 'audit.parked_events',
        'audit_next.parked_events', 'audit.rewinds', 'audit.session_events', 'audit_next.session_events',
        'flotilla.orders', 'flotilla.actions', 'flotilla.pipelines', 'flotilla.runs']::regclass[]
    LOOP
        IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = target AND polname = 'flotilla_definer_all') THEN
            PERFORM flotilla_ops.open_to(target, 'flotilla_definer');
        END IF;
    END LOOP;
    FOREACH signature IN ARRAY ARRAY[
        'audit.archivable_sessions(text, timestamptz, text, integer, text[])', 'audit.may_archive(text, text, bigint)',
        'audit.recorded_archives(text, text)', 'audit.archived_upto(text, text)']
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION audit.archivable_sessions(text, timestamptz, text, integer, text[]),
    audit.recorded_archives(text, text) TO flotilla_gateway, flotilla_app, flotilla_audit;
GRANT EXECUTE ON FUNCTION audit.may_archive(text, text, bigint) TO flotilla_audit;
GRANT EXECUTE ON FUNCTION audit.archived_upto(text, text)
    TO flotilla_gateway, flotilla_worker, flotilla_agent, flotilla_app, flotilla_audit;
