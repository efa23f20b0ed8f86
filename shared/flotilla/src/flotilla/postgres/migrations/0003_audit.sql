-- The audit projection: session events with their hash chain, anchors, analytics, what waits, and who stands where.
-- Only flotilla_audit writes here. The tables that a rebuild replaces exist twice: live in `audit`, the next
-- generation in `audit_next`; flotilla_definer owns both, so that one function can exchange them.

CREATE SCHEMA audit_next;
CREATE SCHEMA audit_swap; -- empty but for the moment of the exchange
GRANT USAGE ON SCHEMA audit_next TO flotilla_audit;
GRANT USAGE, CREATE ON SCHEMA audit, audit_next, audit_swap TO flotilla_definer;

CREATE TABLE audit.session_events (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    type text NOT NULL,
    occurred_at timestamptz NOT NULL,
    run_id text,
    task_id text,
    -- For `state_change{rolled_back}`: the state after this event is the state at that seq.
    rolled_back_to bigint,
    -- The span that projected the event, when its trace is sampled.
    traceparent text,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    -- SHA-256(hash of the event before ‖ body)
    hash bytea NOT NULL,
    -- The CloudEvent as it was appended, byte for byte.
    body bytea NOT NULL,
    -- A copy for queries; NULL where PostgreSQL can't hold the JSON (a NUL character in a string).
    event jsonb,
    projected_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id, seq)
);
CREATE INDEX session_events_rollbacks ON audit.session_events (tenant_id, session_id, seq)
    WHERE rolled_back_to IS NOT NULL;

-- The newest projected event of each session.
CREATE TABLE audit.session_heads (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    kafka_partition integer NOT NULL,
    first_seq bigint NOT NULL,
    first_offset bigint NOT NULL,
    parent_session_id text,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    -- The newest event that a snapshot covers.
    snapshot_seq bigint NOT NULL,
    -- Changed since the last checkpoint of its partition.
    dirty boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant_id, session_id)
) WITH (fillfactor = 70);
CREATE INDEX session_heads_dirty ON audit.session_heads (kafka_partition) WHERE dirty;

-- What a stretch of a session's own events (first_seq to seq, no rollback among them) adds to its state.
CREATE TABLE audit.snapshots (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    first_seq bigint NOT NULL,
    earliest timestamptz NOT NULL,
    summary bytea NOT NULL,
    counts integer[] NOT NULL,
    messages bytea NOT NULL,
    tool_calls bytea NOT NULL,
    tool_results bytea NOT NULL,
    errors bytea NOT NULL,
    PRIMARY KEY (tenant_id, session_id, seq)
);

CREATE TABLE audit.tool_usage (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    tool text NOT NULL,
    agent text NOT NULL,
    ok boolean NOT NULL,
    duration_ms double precision NOT NULL,
    error text,
    occurred_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, session_id, seq)
);
CREATE INDEX tool_usage_by_time ON audit.tool_usage (tenant_id, occurred_at);

-- Events that can't be projected yet: behind a gap or a conflict, of an unknown type, or no event at all.
CREATE TABLE audit.parked_events (
    tenant_id text NOT NULL,
    kafka_partition integer NOT NULL,
    kafka_offset bigint NOT NULL,
    session_id text,
    seq bigint,
    event_id uuid,
    reason text NOT NULL CHECK (reason IN ('gap', 'conflict', 'unknown_type', 'waiting', 'undecodable', 'discarded')),
    detail text NOT NULL,
    body bytea NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, kafka_partition, kafka_offset)
);
CREATE INDEX parked_events_by_session ON audit.parked_events (tenant_id, session_id);

-- The fence of each partition: a batch is projected only by moving this row from where the batch was read.
CREATE TABLE audit.consumer_offsets (
    kafka_partition integer PRIMARY KEY,
    next_offset bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Per partition a chain of signed statements; they outlive every rebuild.
CREATE TABLE audit.checkpoints (
    kafka_partition integer NOT NULL,
    number bigint NOT NULL,
    -- The signed JSON document, byte for byte.
    statement bytea NOT NULL,
    signature bytea NOT NULL,
    key_id text NOT NULL,
    -- The Merkle leaves, 32 bytes each.
    leaves bytea NOT NULL,
    created_at timestamptz NOT NULL,
    published_at timestamptz,
    PRIMARY KEY (kafka_partition, number)
);
CREATE INDEX checkpoints_unpublished ON audit.checkpoints (kafka_partition, number) WHERE published_at IS NULL;

-- Which session's head each leaf is.
CREATE TABLE audit.checkpoint_heads (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    kafka_partition integer NOT NULL,
    number bigint NOT NULL,
    leaf_index integer NOT NULL,
    PRIMARY KEY (tenant_id, session_id, seq, kafka_partition, number)
);
CREATE INDEX checkpoint_heads_by_checkpoint ON audit.checkpoint_heads (kafka_partition, number, leaf_index);

-- What people ask of the audit consumer, which alone writes the projection.
CREATE TABLE audit.requests (
    tenant_id text NOT NULL,
    request_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('rebuild', 'retry', 'discard')),
    session_id text,
    requested_by text NOT NULL,
    reason text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz,
    outcome jsonb,
    PRIMARY KEY (tenant_id, request_id)
);
CREATE INDEX requests_open ON audit.requests (created_at) WHERE finished_at IS NULL;

CREATE TABLE audit_next.session_events (LIKE audit.session_events INCLUDING ALL);
CREATE TABLE audit_next.session_heads (LIKE audit.session_heads INCLUDING ALL) WITH (fillfactor = 70);
CREATE TABLE audit_next.snapshots (LIKE audit.snapshots INCLUDING ALL);
CREATE TABLE audit_next.tool_usage (LIKE audit.tool_usage INCLUDING ALL);
CREATE TABLE audit_next.parked_events (LIKE audit.parked_events INCLUDING ALL);
CREATE TABLE audit_next.consumer_offsets (LIKE audit.consumer_offsets INCLUDING ALL);

DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN SELECT c.oid::regclass FROM pg_class AS c
        WHERE c.relnamespace IN ('audit'::regnamespace, 'audit_next'::regnamespace) AND c.relkind = 'r'
    LOOP
        IF EXISTS (SELECT FROM pg_attribute WHERE attrelid = target AND attname = 'tenant_id') THEN
            PERFORM flotilla_ops.protect(target);
            PERFORM flotilla_ops.open_to(target, 'flotilla_audit');
            EXECUTE format('GRANT SELECT ON %s TO flotilla_app', target);
        END IF;
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON %s TO flotilla_audit', target);
    END LOOP;
END
$$;
GRANT INSERT ON audit.requests TO flotilla_app;
SELECT flotilla_ops.open_to('audit.checkpoint_heads', 'flotilla_definer');

-- Where the projection of a partition stands: no tenant's data, so readers of every tenant may ask.
CREATE FUNCTION audit.next_offset(partition_number integer) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$ SELECT o.next_offset FROM audit.consumer_offsets AS o WHERE o.kafka_partition = partition_number $$;

-- The signed checkpoints of a partition, oldest first: hashes only. `known_heads`: how many leaves have a row that says
-- whose they are; a deleted row shows, whichever tenant's it was.
CREATE FUNCTION audit.checkpoints_after(partition_number integer, after_number bigint, at_most integer)
    RETURNS TABLE (number bigint, statement bytea, signature bytea, key_id text, leaves bytea, created_at timestamptz,
                   published_at timestamptz, known_heads bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT c.number, c.statement, c.signature, c.key_id, c.leaves, c.created_at, c.published_at,
        (SELECT count(*) FROM audit.checkpoint_heads AS h
         WHERE h.kafka_partition = c.kafka_partition AND h.number = c.number)
    FROM audit.checkpoints AS c
    WHERE c.kafka_partition = partition_number AND c.number > after_number
    ORDER BY c.number LIMIT at_most
    $$;

-- Exchanges the live projection and the rebuilt one within the caller's transaction.
CREATE FUNCTION audit.switch_projection() RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
DECLARE
    names CONSTANT text[] := ARRAY['session_events', 'session_heads', 'snapshots', 'tool_usage', 'parked_events',
                                   'consumer_offsets'];
    name text;
BEGIN
    FOREACH name IN ARRAY names LOOP
        EXECUTE format('ALTER TABLE audit.%I SET SCHEMA audit_swap', name);
        EXECUTE format('ALTER TABLE audit_next.%I SET SCHEMA audit', name);
        EXECUTE format('ALTER TABLE audit_swap.%I SET SCHEMA audit_next', name);
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION audit.next_offset(integer), audit.checkpoints_after(integer, bigint, integer),
    audit.switch_projection() FROM PUBLIC;

DO $$
DECLARE
    target regclass;
BEGIN
    FOR target IN SELECT c.oid::regclass FROM pg_class AS c
        WHERE c.relnamespace IN ('audit'::regnamespace, 'audit_next'::regnamespace) AND c.relkind = 'r'
    LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO flotilla_definer', target);
    END LOOP;
END
$$;
ALTER FUNCTION audit.next_offset(integer) OWNER TO flotilla_definer;
ALTER FUNCTION audit.checkpoints_after(integer, bigint, integer) OWNER TO flotilla_definer;
ALTER FUNCTION audit.switch_projection() OWNER TO flotilla_definer;
GRANT EXECUTE ON FUNCTION audit.next_offset(integer), audit.checkpoints_after(integer, bigint, integer)
    TO flotilla_app, flotilla_audit;
GRANT EXECUTE ON FUNCTION audit.switch_projection() TO flotilla_audit;
