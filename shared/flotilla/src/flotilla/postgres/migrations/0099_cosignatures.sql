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
-- and the newest of those. Without a checkpoint: of all that Kafka has a copy of.
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
    WHERE c.tree_note IS NOT NULL
    ORDER BY cardinality(array(
        SELECT 1 FROM audit.log_cosignatures AS w
        WHERE w.kafka_partition = partition_number AND w.number = c.number)) DESC, c.number DESC
    LIMIT 1
    $$;
ALTER FUNCTION audit.provable_tree(integer, bigint) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.provable_tree(integer, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.provable_tree(integer, bigint) TO flotilla_app, flotilla_audit, flotilla_gateway;
