-- Which tenants have passages to embed, or documents to index, is asked for every few seconds: it is read off the tenants' rows,
-- not off all passages.
ALTER TABLE flotilla.knowledge_bases
    ADD COLUMN changes bigint NOT NULL DEFAULT 0,
    ADD COLUMN embedded_changes bigint,
    ADD COLUMN indexed_by text,
    ADD COLUMN indexed_changes bigint;
COMMENT ON COLUMN flotilla.knowledge_bases.changes IS 'How often passages came or went.';
COMMENT ON COLUMN flotilla.knowledge_bases.embedded_changes IS 'The `changes` after which `embedded_by` had embedded all passages; NULL while it works.';
COMMENT ON COLUMN flotilla.knowledge_bases.indexed_by IS 'The version of the analysis that all documents were last looked through for.';
COMMENT ON COLUMN flotilla.knowledge_bases.indexed_changes IS 'The `changes` after which it had indexed all documents.';

-- By a trigger, since services of the version before write passages, too, while they are replaced.
CREATE FUNCTION flotilla_ops.count_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    NEW.changes := OLD.changes + 1;
    RETURN NEW;
END
$$;
CREATE TRIGGER passages_changed BEFORE UPDATE ON flotilla.knowledge_bases
    FOR EACH ROW WHEN (NEW.passages <> OLD.passages) EXECUTE FUNCTION flotilla_ops.count_change();

SELECT flotilla_ops.open_to('flotilla.knowledge_bases', 'flotilla_definer');
GRANT SELECT ON flotilla.knowledge_bases TO flotilla_definer;
CREATE OR REPLACE FUNCTION flotilla.tenants_to_index(version text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT b.tenant_id FROM flotilla.knowledge_bases AS b
    WHERE b.indexed_by IS DISTINCT FROM version OR b.indexed_changes IS DISTINCT FROM b.changes
    $$;
CREATE OR REPLACE FUNCTION flotilla.tenants_to_store(by text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT b.tenant_id FROM flotilla.knowledge_bases AS b
    WHERE b.embedded_by IS DISTINCT FROM by OR b.embedded_changes IS DISTINCT FROM b.changes
    $$;
-- Of tenants that are embedded as a whole: all of their passages.
CREATE OR REPLACE FUNCTION flotilla.vectors_stored(by text) RETURNS TABLE (tenant_id text, vectors bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT b.tenant_id, b.passages FROM flotilla.knowledge_bases AS b
    WHERE b.embedded_by = by AND b.embedded_changes = b.changes AND b.passages > 0
    $$;
DO $$
BEGIN
    IF to_regprocedure('flotilla.tenants_to_embed(text)') IS NOT NULL THEN
        CREATE OR REPLACE FUNCTION flotilla.tenants_to_embed(by text) RETURNS SETOF text
            LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
            AS $function$
            SELECT b.tenant_id FROM flotilla.knowledge_bases AS b
            WHERE b.embedded_by IS DISTINCT FROM by OR b.embedded_changes IS DISTINCT FROM b.changes
            $function$;
    END IF;
END
$$;
