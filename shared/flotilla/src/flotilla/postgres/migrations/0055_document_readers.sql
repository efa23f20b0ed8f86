-- Readers of documents, and attachments of sessions. Who may not read a document finds nothing of it: neither itself, nor
-- its passages, vectors and place in the index.
ALTER TABLE flotilla.documents
    -- Identities and groups as `flotilla.contracts.identity` writes them; NULL: everybody in the tenant.
    ADD COLUMN readers text[],
    -- The session that it is an attachment of: only its questions find it.
    ADD COLUMN attached_to text;
CREATE INDEX documents_not_for_all ON flotilla.documents (tenant_id, document_id)
    WHERE readers IS NOT NULL OR attached_to IS NOT NULL;
-- As whom a run's or task's agents read. The gateway says it for each transaction; NULL, where nobody did: as everybody.
ALTER TABLE flotilla.runs ADD COLUMN reads_as text[] DEFAULT flotilla_ops.viewer_names();
ALTER TABLE flotilla.pipelines ADD COLUMN reads_as text[] DEFAULT flotilla_ops.viewer_names();

-- The documents of the transaction's tenant that it may not read. An agent reads as who asked for its task; what belongs to
-- nobody in particular (indexing, embedding) reads all.
CREATE FUNCTION flotilla.hidden_documents() RETURNS SETOF text
    LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10 SET search_path = pg_catalog, pg_temp
    AS $$
#variable_conflict use_column
DECLARE
    tenant text;
    of_session text;
    names text[];
BEGIN
    SELECT h.tenant_id, h.session_id, coalesce(r.reads_as, p.reads_as) INTO tenant, of_session, names
    FROM flotilla.held_task() AS h
    LEFT JOIN flotilla.runs AS r ON r.tenant_id = h.tenant_id AND r.run_id = h.run_id
    LEFT JOIN flotilla.pipelines AS p ON p.tenant_id = h.tenant_id AND p.task_id = split_part(h.task_id, '~', 1);
    IF tenant IS NULL THEN
        IF flotilla_ops.sees_all() THEN
            RETURN;
        END IF;
        tenant := flotilla_ops.current_tenant();
        names := flotilla_ops.viewer_names();
    END IF;
    RETURN QUERY
    SELECT d.document_id FROM flotilla.documents AS d
    LEFT JOIN flotilla.sessions AS s ON s.tenant_id = d.tenant_id AND s.session_id = d.attached_to
    WHERE d.tenant_id = tenant AND (d.readers IS NOT NULL OR d.attached_to IS NOT NULL)
      AND NOT (coalesce(d.readers IS NULL OR d.readers && names, false)
               AND (d.attached_to IS NULL
                    OR coalesce(d.attached_to = of_session, false)
                    OR (of_session IS NULL
                        AND flotilla_ops.has_access(s.visibility, s.owner, s.readers || s.writers, names)
                        AND flotilla.sees_ancestors(s.tenant_id, s.ancestors))));
END
$$;
-- Their passages, and their slots in the index.
CREATE FUNCTION flotilla.hidden_passages() RETURNS SETOF bigint
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.passage_no FROM flotilla.hidden_documents() AS h (document_id)
    JOIN flotilla.passages AS p ON p.tenant_id = flotilla_ops.current_tenant() AND p.document_id = h.document_id
    $$;
-- Slots that a search for `session` (NULL: for none) leaves out: of hidden documents, and of other sessions' attachments.
CREATE FUNCTION flotilla.slots_left_out(session text) RETURNS TABLE (slot bigint, passages integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT i.slot, i.passages FROM (
        SELECT flotilla.hidden_documents()
        UNION
        SELECT d.document_id FROM flotilla.documents AS d
        WHERE d.tenant_id = flotilla_ops.current_tenant() AND d.attached_to IS DISTINCT FROM session
          AND d.attached_to IS NOT NULL
    ) AS o (document_id)
    JOIN flotilla.indexed_documents AS i ON i.tenant_id = flotilla_ops.current_tenant() AND i.document_id = o.document_id
    WHERE i.passages > 0 ORDER BY i.slot
    $$;
-- The passages that a search for `session` leaves out likewise.
CREATE FUNCTION flotilla.passages_left_out(session text) RETURNS SETOF bigint
    LANGUAGE sql STABLE SECURITY DEFINER ROWS 100 SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.passage_no FROM flotilla.passages AS p
    JOIN flotilla.documents AS d ON d.tenant_id = p.tenant_id AND d.document_id = p.document_id
    WHERE d.tenant_id = flotilla_ops.current_tenant() AND d.attached_to IS NOT NULL AND d.attached_to IS DISTINCT FROM session
    $$;
GRANT SELECT ON flotilla.documents, flotilla.indexed_documents, flotilla.passages, flotilla.sessions, flotilla.runs,
    flotilla.pipelines TO flotilla_definer;

DO $$
DECLARE
    signature text;
    target text;
BEGIN
    FOREACH signature IN ARRAY ARRAY['flotilla.hidden_documents()', 'flotilla.hidden_passages()', 'flotilla.slots_left_out(text)',
        'flotilla.passages_left_out(text)']
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO flotilla_definer', signature);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', signature);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO flotilla_gateway, flotilla_agent, flotilla_app', signature);
    END LOOP;
    FOREACH target IN ARRAY ARRAY['documents', 'passages', 'indexed_documents'] LOOP
        EXECUTE format('CREATE POLICY readers ON flotilla.%I AS RESTRICTIVE TO flotilla_gateway, flotilla_agent, flotilla_app '
            'USING (document_id NOT IN (SELECT flotilla.hidden_documents())) WITH CHECK (true)', target);
    END LOOP;
    IF to_regclass('flotilla.passage_embeddings') IS NOT NULL THEN
        CREATE POLICY readers ON flotilla.passage_embeddings AS RESTRICTIVE
            TO flotilla_gateway, flotilla_agent, flotilla_app
            USING (passage_no NOT IN (SELECT flotilla.hidden_passages())) WITH CHECK (true);
    ELSE
        PERFORM flotilla_ops.open_to('flotilla.passages', 'flotilla_definer');
    END IF;
END
$$;
