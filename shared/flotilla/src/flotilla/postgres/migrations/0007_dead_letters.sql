-- Open dead letters of every tenant, by stream, for the gauge that the worker's leader reports.
SELECT flotilla_ops.open_to('flotilla.dead_letters', 'flotilla_definer');
GRANT SELECT ON flotilla.dead_letters TO flotilla_definer;

CREATE FUNCTION flotilla.dead_letter_counts(at_most integer)
    RETURNS TABLE (stream text, letters bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT d.stream, count(*) FROM (
        SELECT o.stream FROM flotilla.dead_letters AS o
        WHERE o.redriven_at IS NULL AND o.discarded_at IS NULL LIMIT at_most
    ) AS d GROUP BY d.stream
    $$;
ALTER FUNCTION flotilla.dead_letter_counts(integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.dead_letter_counts(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.dead_letter_counts(integer) TO flotilla_app;
