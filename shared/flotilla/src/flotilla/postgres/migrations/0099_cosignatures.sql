-- What witnesses signed under a partition's checkpoints: lines of the notes. Only the newest are kept.
CREATE TABLE audit.log_cosignatures (
    kafka_partition integer NOT NULL,
    number bigint NOT NULL,
    -- The witness's key, as NAME+ID+KEY.
    witness text NOT NULL,
    line text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kafka_partition, number, witness)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON audit.log_cosignatures TO flotilla_audit;
ALTER TABLE audit.log_cosignatures OWNER TO flotilla_definer;

-- The signed tree that proves most about the entries of a checkpoint: of this or a later one, with the most cosignatures,
-- and the newest of those. Without a checkpoint: of all. What Kafka has no copy of yet can be lost, and is not shown.
CREATE FUNCTION audit.provable_tree(partition_number integer, from_number bigint)
    RETURNS TABLE (number bigint, tree_size bigint, tree_note bytea, cosignatures text[])
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    WITH candidates AS (
        SELECT coalesce(from_number, (
            SELECT max(p.number) FROM audit.checkpoints AS p
            WHERE p.kafka_partition = partition_number AND p.published_at IS NOT NULL)) AS number
        UNION
        SELECT w.number FROM audit.log_cosignatures AS w
        WHERE w.kafka_partition = partition_number AND w.number >= coalesce(from_number, 0)
    )
    SELECT c.number, c.tree_size, c.tree_note, array(
        SELECT w.line FROM audit.log_cosignatures AS w
        WHERE w.kafka_partition = partition_number AND w.number = c.number ORDER BY w.witness) AS cosignatures
    FROM candidates JOIN audit.checkpoints AS c ON c.kafka_partition = partition_number AND c.number = candidates.number
    WHERE c.tree_note IS NOT NULL AND c.published_at IS NOT NULL
    ORDER BY cardinality(array(
        SELECT 1 FROM audit.log_cosignatures AS w
        WHERE w.kafka_partition = partition_number AND w.number = c.number)) DESC, c.number DESC
    LIMIT 1
    $$;
ALTER FUNCTION audit.provable_tree(integer, bigint) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.provable_tree(integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.provable_tree(integer, bigint) TO flotilla_app, flotilla_audit, flotilla_gateway;

-- Time-stamps (RFC 3161) of checkpoints: the authority's answers over the bytes of `tree_note`. All are kept: the oldest that
-- covers an event says since when it is in the log.
CREATE TABLE audit.log_stamps (
    kafka_partition integer NOT NULL,
    number bigint NOT NULL,
    response bytea NOT NULL,
    stamped_at timestamptz NOT NULL,
    PRIMARY KEY (kafka_partition, number)
);
GRANT SELECT, INSERT ON audit.log_stamps TO flotilla_audit;
ALTER TABLE audit.log_stamps OWNER TO flotilla_definer;

-- The oldest stamp of a tree with at least so many entries; without a number the newest of all.
CREATE FUNCTION audit.stamp_of_log(partition_number integer, at_least bigint)
    RETURNS TABLE (tree_size bigint, tree_note bytea, response bytea, stamped_at timestamptz)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT c.tree_size, c.tree_note, s.response, s.stamped_at
    FROM audit.log_stamps AS s
    JOIN audit.checkpoints AS c ON c.kafka_partition = s.kafka_partition AND c.number = s.number
    WHERE s.kafka_partition = partition_number AND c.tree_size >= coalesce(at_least, 0)
    ORDER BY CASE WHEN at_least IS NULL THEN -s.number ELSE s.number END LIMIT 1
    $$;
ALTER FUNCTION audit.stamp_of_log(integer, bigint) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.stamp_of_log(integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.stamp_of_log(integer, bigint) TO flotilla_app, flotilla_audit, flotilla_gateway;
