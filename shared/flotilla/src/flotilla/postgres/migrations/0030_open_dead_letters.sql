-- How many open dead letters of all tenants one stream has left, up to `at_most`.
CREATE FUNCTION flotilla.open_dead_letters(of_stream text, at_most integer) RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT count(*) FROM (
        SELECT FROM flotilla.dead_letters AS o
        WHERE o.stream = of_stream AND o.redriven_at IS NULL AND o.discarded_at IS NULL LIMIT at_most
    ) AS d
    $$;
ALTER FUNCTION flotilla.open_dead_letters(text, integer) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.open_dead_letters(text, integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.open_dead_letters(text, integer) TO flotilla_app, flotilla_worker;
