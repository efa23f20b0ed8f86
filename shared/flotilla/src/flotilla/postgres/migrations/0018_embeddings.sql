-- Embeddings of passages, for searches by meaning. They need pgvector: without it there is no table, and searches rank by
-- words alone.
ALTER TABLE flotilla.knowledge_bases ADD COLUMN embedded_by text;
COMMENT ON COLUMN flotilla.knowledge_bases.embedded_by IS 'The model that every passage was once embedded by; searches use it.';

DO $$
DECLARE
    dimensions integer;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
        RAISE NOTICE 'pgvector is not available: searches rank by words alone';
        RETURN;
    END IF;
    -- Where every role finds its types.
    CREATE EXTENSION IF NOT EXISTS vector SCHEMA public;

    -- `model` is its name and version. Goes with its passage, whoever deletes that.
    CREATE TABLE flotilla.passage_embeddings (
        tenant_id text NOT NULL,
        passage_no bigint NOT NULL,
        model text NOT NULL,
        embedding public.halfvec NOT NULL,
        PRIMARY KEY (tenant_id, passage_no, model),
        FOREIGN KEY (tenant_id, passage_no) REFERENCES flotilla.passages ON DELETE CASCADE
    );
    -- Vectors of other sizes are compared one by one.
    FOREACH dimensions IN ARRAY ARRAY[384, 768, 1024, 1536, 3072] LOOP
        EXECUTE format('CREATE INDEX passage_embeddings_%1$s ON flotilla.passage_embeddings
            USING hnsw ((embedding::public.halfvec(%1$s)) public.halfvec_cosine_ops)
            WHERE public.vector_dims(embedding) = %1$s', dimensions);
    END LOOP;
    PERFORM flotilla_ops.protect('flotilla.passage_embeddings');
    GRANT SELECT, INSERT, DELETE ON flotilla.passage_embeddings TO flotilla_app;

    PERFORM flotilla_ops.open_to(t, 'flotilla_definer')
        FROM unnest(ARRAY['flotilla.passages', 'flotilla.passage_embeddings']::regclass[]) AS t;
    GRANT SELECT ON flotilla.passages, flotilla.passage_embeddings TO flotilla_definer;
    -- Tenants with a passage that `by` has not embedded.
    CREATE FUNCTION flotilla.tenants_to_embed(by text) RETURNS SETOF text
        LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
        AS $function$
        SELECT DISTINCT p.tenant_id FROM flotilla.passages AS p
        WHERE NOT EXISTS (SELECT FROM flotilla.passage_embeddings AS e
                          WHERE e.tenant_id = p.tenant_id AND e.passage_no = p.passage_no AND e.model = by)
        $function$;
    ALTER FUNCTION flotilla.tenants_to_embed(text) OWNER TO flotilla_definer;
    REVOKE ALL ON FUNCTION flotilla.tenants_to_embed(text) FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION flotilla.tenants_to_embed(text) TO flotilla_app;
END
$$;
