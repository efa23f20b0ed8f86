-- How many schedules the transaction's tenant has, also those that the caller does not see; those that are being deleted
-- count. Who asks waits for others who are about to add one, until their transaction ends.
CREATE FUNCTION flotilla.schedules_held() RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    tenant CONSTANT text := flotilla_ops.current_tenant();
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('schedules:' || tenant, 0));
    RETURN (SELECT count(*) FROM flotilla.schedules AS s WHERE s.tenant_id = tenant);
END
$$;
ALTER FUNCTION flotilla.schedules_held() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.schedules_held() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.schedules_held() TO flotilla_gateway;
-- The runs of schedules count for their makers' limits, as those that people start.
GRANT EXECUTE ON FUNCTION flotilla.open_work(text, text) TO flotilla_worker;
