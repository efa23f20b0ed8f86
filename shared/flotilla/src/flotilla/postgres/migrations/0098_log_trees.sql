-- The log of each partition as a Merkle tree over the chain hashes of its events, in tiles; a signed note per checkpoint.

-- A tile of level 0 has up to 256 entries (32 bytes each), one of a higher level the roots of full tiles below it.
CREATE TABLE audit.log_tiles (
    kafka_partition integer NOT NULL,
    level smallint NOT NULL,
    tile bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (kafka_partition, level, tile)
);
ALTER TABLE audit.log_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL; -- hashes can't be compressed
GRANT SELECT, INSERT, UPDATE ON audit.log_tiles TO flotilla_audit;
ALTER TABLE audit.log_tiles OWNER TO flotilla_definer;

-- How large the tree is with this checkpoint, how many entries the checkpoint appended, and the note that signs its root.
ALTER TABLE audit.checkpoints
    ADD COLUMN tree_size bigint, ADD COLUMN tree_entries integer, ADD COLUMN tree_note bytea;

-- The head's entry in the tree, and how many of the session's events end there, one behind the other.
ALTER TABLE audit.checkpoint_heads ADD COLUMN log_index bigint, ADD COLUMN log_entries integer;

-- Events of older versions enter the tree with the next checkpoints.
UPDATE audit.session_heads SET dirty = true WHERE NOT dirty;

-- Tiles of a partition's tree: hashes only.
CREATE FUNCTION audit.tiles_of_log(partition_number integer, levels integer[], tiles bigint[])
    RETURNS TABLE (level smallint, tile bigint, hashes bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT t.level, t.tile, t.hashes
    FROM unnest(levels, tiles) AS w (level, tile)
    JOIN audit.log_tiles AS t ON t.kafka_partition = partition_number AND t.level = w.level AND t.tile = w.tile
    $$;

-- The newest note of a partition's tree that Kafka has a copy of: what is lost from PostgreSQL after it can be found again.
CREATE FUNCTION audit.newest_tree_note(partition_number integer)
    RETURNS TABLE (number bigint, tree_size bigint, tree_note bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT c.number, c.tree_size, c.tree_note FROM audit.checkpoints AS c
    WHERE c.kafka_partition = partition_number AND c.tree_note IS NOT NULL AND c.published_at IS NOT NULL
    ORDER BY c.number DESC LIMIT 1
    $$;

DROP FUNCTION audit.checkpoints_after(integer, bigint, integer);
CREATE FUNCTION audit.checkpoints_after(partition_number integer, after_number bigint, at_most integer)
    RETURNS TABLE (number bigint, statement bytea, signature bytea, key_id text, leaves bytea, created_at timestamptz,
                   published_at timestamptz, known_heads bigint, tree_size bigint, tree_note bytea)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT c.number, c.statement, c.signature, c.key_id, c.leaves, c.created_at, c.published_at,
        (SELECT count(*) FROM audit.checkpoint_heads AS h
         WHERE h.kafka_partition = c.kafka_partition AND h.number = c.number),
        c.tree_size, c.tree_note
    FROM audit.checkpoints AS c
    WHERE c.kafka_partition = partition_number AND c.number > after_number
    ORDER BY c.number LIMIT at_most
    $$;

ALTER FUNCTION audit.tiles_of_log(integer, integer[], bigint[]) OWNER TO flotilla_definer;
ALTER FUNCTION audit.newest_tree_note(integer) OWNER TO flotilla_definer;
ALTER FUNCTION audit.checkpoints_after(integer, bigint, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION audit.tiles_of_log(integer, integer[], bigint[]), audit.newest_tree_note(integer),
    audit.checkpoints_after(integer, bigint, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.tiles_of_log(integer, integer[], bigint[]), audit.newest_tree_note(integer),
    audit.checkpoints_after(integer, bigint, integer) TO flotilla_app, flotilla_audit, flotilla_gateway;
