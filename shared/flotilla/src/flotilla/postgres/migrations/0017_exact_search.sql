-- Search ranks exactly: a search reads the whole posting lists of its terms, kept in blocks that are quick to read.

-- The passages of one block of 1024 slots that have a term: 6 bytes for each, `slot within the block, how often, words of
-- the passage`, little endian. Never out of line: a search reads many.
CREATE TABLE flotilla.postings (
    tenant_id text NOT NULL,
    term text COLLATE "C" NOT NULL,
    block bigint NOT NULL,
    postings bytea STORAGE PLAIN NOT NULL,
    PRIMARY KEY (tenant_id, term, block)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

-- What the index holds of each document, to take exactly that out again. Its passages have the slots from `slot` on.
CREATE TABLE flotilla.indexed_documents (
    tenant_id text NOT NULL,
    document_id text NOT NULL,
    slot bigint NOT NULL,
    passages integer NOT NULL,
    length bigint NOT NULL,
    terms text[] COLLATE "C" NOT NULL,
    -- Version of the analysis and language. Another version than the code's is indexed again in the background.
    analysis text NOT NULL,
    content_hash bytea NOT NULL,
    PRIMARY KEY (tenant_id, document_id)
);
CREATE UNIQUE INDEX indexed_documents_by_slot ON flotilla.indexed_documents (tenant_id, slot) WHERE passages > 0;

ALTER TABLE flotilla.knowledge_bases
    ADD COLUMN indexed_passages bigint NOT NULL DEFAULT 0,
    ADD COLUMN indexed_length bigint NOT NULL DEFAULT 0,
    ADD COLUMN next_slot bigint NOT NULL DEFAULT 0,
    ADD COLUMN languages text[] NOT NULL DEFAULT '{}';

-- Services of the version before go on writing these while they are replaced.
ALTER TABLE flotilla.passages ALTER COLUMN terms SET DEFAULT '{}', ALTER COLUMN weights SET DEFAULT '{}';

SELECT flotilla_ops.protect(t)
    FROM unnest(ARRAY['flotilla.postings', 'flotilla.indexed_documents']::regclass[]) AS t;
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.postings, flotilla.indexed_documents TO flotilla_app;

-- What is indexed so far serves until the gateway has indexed it again: the old lists in the new form. How often a term
-- occurs is computed back from its weight; the owner of the tables may not be above row level security.
DO $$
DECLARE
    target text;
BEGIN
    FOREACH target IN ARRAY ARRAY['documents', 'passages', 'knowledge_bases', 'postings', 'indexed_documents'] LOOP
        EXECUTE format('ALTER TABLE flotilla.%I NO FORCE ROW LEVEL SECURITY', target);
    END LOOP;

    INSERT INTO flotilla.indexed_documents
    SELECT d.tenant_id, d.document_id,
           sum(d.passages) OVER (PARTITION BY d.tenant_id ORDER BY d.document_id) - d.passages,
           d.passages, coalesce(p.length, 0), coalesce(p.terms, '{}'), '1/en', d.content_hash
    FROM flotilla.documents AS d
    LEFT JOIN LATERAL (
        SELECT sum(greatest(1, cardinality(p.terms))) AS length,
               (SELECT array_agg(DISTINCT t) FROM flotilla.passages AS o, unnest(o.terms) AS t
                WHERE o.tenant_id = d.tenant_id AND o.document_id = d.document_id) AS terms
        FROM flotilla.passages AS p WHERE p.tenant_id = d.tenant_id AND p.document_id = d.document_id
    ) AS p ON true;

    INSERT INTO flotilla.postings
    SELECT o.tenant_id, o.term, o.slot / 1024, string_agg(
        -- int2send is big endian
        (SELECT string_agg(substr(int2send(v::smallint), 2, 1) || substr(int2send(v::smallint), 1, 1), ''
                           ORDER BY n)
         FROM unnest(ARRAY[o.slot % 1024, o.times, o.length]) WITH ORDINALITY AS u (v, n)), '' ORDER BY o.slot)
    FROM (
        SELECT p.tenant_id, t.term, i.slot + p.ordinal AS slot, cardinality(p.terms) AS length,
               least(1000, greatest(1, round(t.weight * (0.48 + 0.72 * cardinality(p.terms) / 70.0)
                                             / greatest(1, 2200 - t.weight))))::int AS times
        FROM flotilla.passages AS p
        JOIN flotilla.indexed_documents AS i USING (tenant_id, document_id)
        CROSS JOIN LATERAL unnest(p.terms, p.weights) AS t (term, weight)
    ) AS o
    GROUP BY o.tenant_id, o.term, o.slot / 1024;

    UPDATE flotilla.knowledge_bases AS b SET
        indexed_passages = i.passages, indexed_length = i.length, next_slot = i.passages, languages = '{en}'
    FROM (SELECT tenant_id, sum(passages) AS passages, sum(length) AS length
          FROM flotilla.indexed_documents GROUP BY tenant_id) AS i
    WHERE b.tenant_id = i.tenant_id;

    FOREACH target IN ARRAY ARRAY['documents', 'passages', 'knowledge_bases', 'postings', 'indexed_documents'] LOOP
        EXECUTE format('ALTER TABLE flotilla.%I FORCE ROW LEVEL SECURITY', target);
    END LOOP;
END
$$;

-- Tenants with a document that the index does not hold as `version` of the analysis would make it.
SELECT flotilla_ops.open_to(t, 'flotilla_definer')
    FROM unnest(ARRAY['flotilla.documents', 'flotilla.indexed_documents']::regclass[]) AS t;
GRANT SELECT ON flotilla.documents, flotilla.indexed_documents TO flotilla_definer;
CREATE FUNCTION flotilla.tenants_to_index(version text) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT DISTINCT d.tenant_id FROM flotilla.documents AS d
    LEFT JOIN flotilla.indexed_documents AS i USING (tenant_id, document_id)
    WHERE i.document_id IS NULL OR i.content_hash <> d.content_hash OR split_part(i.analysis, '/', 1) <> version
    $$;
ALTER FUNCTION flotilla.tenants_to_index(text) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.tenants_to_index(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.tenants_to_index(text) TO flotilla_app;
