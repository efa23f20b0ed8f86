-- A person may decide that a session has another history from some event on; a signed checkpoint vouches for the decision.

CREATE TABLE audit.rewinds (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    -- The first event that was set aside.
    from_seq bigint NOT NULL,
    -- The chain's hash before it, and the head that it had then.
    base_hash bytea NOT NULL,
    old_seq bigint NOT NULL,
    old_hash bytea NOT NULL,
    request_id text NOT NULL,
    decided_by text NOT NULL,
    reason text NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    kafka_partition integer NOT NULL,
    -- The checkpoint that signed it, and its leaf there; NULL for some seconds.
    number bigint,
    leaf_index integer,
    PRIMARY KEY (tenant_id, session_id, request_id)
);
CREATE INDEX rewinds_unsigned ON audit.rewinds (kafka_partition) WHERE number IS NULL;
SELECT flotilla_ops.protect('audit.rewinds');
SELECT flotilla_ops.open_to('audit.rewinds', 'flotilla_audit');
GRANT SELECT ON audit.rewinds TO flotilla_app;
GRANT SELECT, INSERT, UPDATE ON audit.rewinds TO flotilla_audit;
ALTER TABLE audit.rewinds OWNER TO flotilla_definer;

-- The signed heads that still count: not those of a history that was set aside by a later, signed decision.
CREATE VIEW audit.standing_heads WITH (security_invoker = true) AS
    SELECT c.* FROM audit.checkpoint_heads AS c WHERE NOT EXISTS (
        SELECT FROM audit.rewinds AS r WHERE r.tenant_id = c.tenant_id AND r.session_id = c.session_id
            AND r.kafka_partition = c.kafka_partition AND r.number > c.number AND r.from_seq <= c.seq);
ALTER VIEW audit.standing_heads OWNER TO flotilla_definer;
GRANT SELECT ON audit.standing_heads TO flotilla_app, flotilla_audit;

-- Where the checkpoint's copy is in Kafka's topic, so that what follows it there is found.
ALTER TABLE audit.checkpoints ADD COLUMN published_offset bigint;

-- Gives a session the head that its projection has, after what waited beyond it (up to `seen_seq`) was set aside. False
-- where more was committed than that, or is still in the outbox: it is on its way.
CREATE FUNCTION audit.reset_head(tenant text, session text, to_seq bigint, seen_seq bigint) RETURNS boolean
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
DECLARE
    head bigint;
    own_start bigint;
BEGIN
    SELECT s.head_seq, coalesce(s.forked_at_seq, 0) INTO head, own_start FROM flotilla.sessions AS s
        WHERE s.tenant_id = tenant AND s.session_id = session FOR UPDATE;
    to_seq := greatest(to_seq, own_start);
    IF head IS NULL OR head = to_seq OR (head > to_seq AND seen_seq <= to_seq) THEN
        RETURN true; -- nothing waited beyond the projection
    END IF;
    IF head > seen_seq OR EXISTS (SELECT FROM flotilla.event_outbox AS o
            WHERE o.tenant_id = tenant AND o.session_id = session) THEN
        RETURN false;
    END IF;
    UPDATE flotilla.sessions SET head_seq = to_seq WHERE tenant_id = tenant AND session_id = session;
    RETURN true;
END
$$;
ALTER FUNCTION audit.reset_head(text, text, bigint, bigint) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.reset_head(text, text, bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.reset_head(text, text, bigint, bigint) TO flotilla_audit;
