-- Which passages have a vector in a store outside PostgreSQL (`FLOTILLA_VECTOR_STORE_URL`). A row is there before its vector is,
-- and goes after it: of a passage that went, it says what is still to be removed.
CREATE TABLE flotilla.outside_vectors (
    tenant_id text NOT NULL,
    model text NOT NULL,
    passage_no bigint NOT NULL,
    stored boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, model, passage_no)
);
COMMENT ON COLUMN flotilla.outside_vectors.model IS 'The model''s name and version, and the store''s.';
SELECT flotilla_ops.protect('flotilla.outside_vectors');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.outside_vectors TO flotilla_gateway, flotilla_app;

SELECT flotilla_ops.open_to('flotilla.outside_vectors', 'flotilla_definer');
GRANT SELECT ON flotilla.outside_vectors, flotilla.passages TO flotilla_definer;
-- Tenants with a passage that has no vector of `by`, or with a vector that is to go.
CREATE FUNCTION flotilla.tenants_to_store(by text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT p.tenant_id FROM flotilla.passages AS p
    WHERE NOT EXISTS (SELECT FROM flotilla.outside_vectors AS v
                      WHERE v.tenant_id = p.tenant_id AND v.model = by AND v.passage_no = p.passage_no AND v.stored)
    UNION
    SELECT v.tenant_id FROM flotilla.outside_vectors AS v
    WHERE v.model <> by
       OR NOT EXISTS (SELECT FROM flotilla.passages AS p WHERE p.tenant_id = v.tenant_id AND p.passage_no = v.passage_no)
    $$;
-- How many vectors of `by` the store has to have.
CREATE FUNCTION flotilla.vectors_stored(by text) RETURNS TABLE (tenant_id text, vectors bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT v.tenant_id, count(*) FROM flotilla.outside_vectors AS v WHERE v.model = by AND v.stored GROUP BY 1
    $$;
ALTER FUNCTION flotilla.tenants_to_store(text) OWNER TO flotilla_definer;
ALTER FUNCTION flotilla.vectors_stored(text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.tenants_to_store(text), flotilla.vectors_stored(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.tenants_to_store(text), flotilla.vectors_stored(text) TO flotilla_gateway, flotilla_app;
