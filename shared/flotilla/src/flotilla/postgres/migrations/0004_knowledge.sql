-- Knowledge base: documents, passages, the posting lists that BM25 ranks by, and the statistics it needs.

CREATE TABLE flotilla.documents (
    tenant_id text NOT NULL,
    document_id text NOT NULL,
    uri text NOT NULL,
    title text NOT NULL,
    media_type text NOT NULL,
    content_hash bytea NOT NULL,
    size_bytes bigint NOT NULL,
    -- The text that the passages' offsets count in, in characters.
    body text NOT NULL,
    passages integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, document_id),
    UNIQUE (tenant_id, uri)
);

-- A passage never changes: replacing its document makes new ones, so a number names one text for ever.
CREATE TABLE flotilla.passages (
    tenant_id text NOT NULL,
    passage_no bigint GENERATED ALWAYS AS IDENTITY,
    document_id text NOT NULL,
    ordinal integer NOT NULL,
    heading text NOT NULL,
    start_offset integer NOT NULL,
    end_offset integer NOT NULL,
    body text NOT NULL,
    -- Its term vector: random access for exact scores, and the way to its postings when it goes.
    terms text[] COLLATE "C" NOT NULL,
    weights smallint[] NOT NULL,
    PRIMARY KEY (tenant_id, passage_no),
    FOREIGN KEY (tenant_id, document_id) REFERENCES flotilla.documents
);
CREATE INDEX passages_by_document ON flotilla.passages (tenant_id, document_id, ordinal);

-- Posting lists. The key is the list in order of weight (thousandths of the BM25 term weight before idf), so that
-- the best postings of a term are read first, from the index alone, and the rest not at all. Equality on text is
-- leakproof; full-text `@@` is not, and its index would go unused under row level security.
CREATE TABLE flotilla.passage_terms (
    tenant_id text NOT NULL,
    term text COLLATE "C" NOT NULL,
    weight smallint NOT NULL,
    passage_no bigint NOT NULL,
    PRIMARY KEY (tenant_id, term, weight, passage_no)
) WITH (autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_analyze_scale_factor = 0.05);

-- How many passages of the tenant hold a term.
CREATE TABLE flotilla.term_statistics (
    tenant_id text NOT NULL,
    term text COLLATE "C" NOT NULL,
    passages integer NOT NULL,
    PRIMARY KEY (tenant_id, term)
) WITH (fillfactor = 80);

-- How many passages the tenant has; its row lock puts the tenant's writers one behind the other.
CREATE TABLE flotilla.knowledge_bases (
    tenant_id text NOT NULL PRIMARY KEY,
    passages bigint NOT NULL
) WITH (fillfactor = 50);

-- A model call that is on its way: whoever else wants the same answer waits for it. Lapses when its maker dies.
CREATE TABLE flotilla.llm_claims (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    call_index integer NOT NULL,
    request_hash bytea NOT NULL,
    claimed_by uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, task_id, call_index, request_hash)
);

-- Tokens used, per scope with a limit: `run:<run>` or `day:<UTC date>`.
CREATE TABLE flotilla.token_budgets (
    tenant_id text NOT NULL,
    scope text NOT NULL,
    used bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, scope)
) WITH (fillfactor = 70);

-- Tokens set aside for a model call on its way.
CREATE TABLE flotilla.token_reservations (
    tenant_id text NOT NULL,
    task_id text NOT NULL,
    call_index integer NOT NULL,
    scopes text[] NOT NULL,
    tokens bigint NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, task_id, call_index)
);

SELECT flotilla_ops.protect(t) FROM unnest(ARRAY[
    'flotilla.documents', 'flotilla.passages', 'flotilla.passage_terms', 'flotilla.term_statistics',
    'flotilla.knowledge_bases', 'flotilla.llm_claims', 'flotilla.token_budgets',
    'flotilla.token_reservations']::regclass[]) AS t;

GRANT SELECT, INSERT, UPDATE, DELETE ON
    flotilla.documents, flotilla.passages, flotilla.passage_terms, flotilla.term_statistics,
    flotilla.knowledge_bases, flotilla.llm_claims, flotilla.token_budgets, flotilla.token_reservations TO flotilla_app;
