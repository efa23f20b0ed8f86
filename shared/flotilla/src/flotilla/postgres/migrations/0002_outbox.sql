-- The relay's side of the outbox: lanes to lease, trace context, parked sessions, the scaler's query.

ALTER TABLE flotilla.event_outbox ADD COLUMN traceparent text;
-- Reads begin near the end of the table; its dead rows are many, so clean them often.
ALTER TABLE flotilla.event_outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000);
GRANT SELECT ON SEQUENCE flotilla.event_outbox_id_seq TO flotilla_relay;

-- One lease per lane; expired ones may be taken by any relay.
INSERT INTO flotilla_ops.leases (name, owner, epoch, expires_at)
    SELECT format('outbox.lane.%s', lpad(lane::text, 2, '0')), '', 0, '-infinity' FROM generate_series(0, 11) AS lane;

-- Sessions held back because Kafka refused one of their events. Their rows stay in event_outbox.
CREATE TABLE flotilla.outbox_parked (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    lane smallint NOT NULL,
    outbox_id bigint NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id)
);
-- Events that were replaced by a tombstone, kept as they were committed.
CREATE TABLE flotilla.outbox_replaced (
    tenant_id text NOT NULL,
    session_id text NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    body bytea NOT NULL,
    error text NOT NULL,
    replaced_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, session_id, seq)
);
SELECT flotilla_ops.protect('flotilla.outbox_parked');
SELECT flotilla_ops.protect('flotilla.outbox_replaced');
SELECT flotilla_ops.open_to('flotilla.outbox_parked', 'flotilla_relay');
GRANT SELECT, INSERT ON flotilla.outbox_parked TO flotilla_relay;
GRANT SELECT ON flotilla.outbox_parked, flotilla.outbox_replaced TO flotilla_app;

SELECT flotilla_ops.open_to(t, 'flotilla_definer')
    FROM unnest(ARRAY['flotilla.event_outbox', 'flotilla.outbox_parked', 'flotilla.outbox_replaced',
                      'flotilla.sessions']::regclass[]) AS t;
GRANT SELECT, UPDATE (head_seq) ON flotilla.sessions TO flotilla_definer;
GRANT SELECT, INSERT, DELETE ON flotilla.event_outbox, flotilla.outbox_parked, flotilla.outbox_replaced
    TO flotilla_definer;
GRANT USAGE ON SCHEMA flotilla_ops TO flotilla_definer;

-- Lets a parked session of the current tenant go on; `replacement`, if given, goes in the refused event's place.
-- The session's rows get new ids, drawn under its row lock, so a relay that has read past the old ones meets them
-- again, in order. Gives the number of rows that wait; NULL when the session is not parked.
CREATE FUNCTION flotilla.redrive_outbox(session text, replacement bytea DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog
    AS $$
DECLARE
    tenant CONSTANT text := flotilla_ops.current_tenant();
    parked flotilla.outbox_parked;
    waiting bigint;
BEGIN
    PERFORM FROM flotilla.sessions AS s WHERE s.tenant_id = tenant AND s.session_id = session FOR UPDATE;
    DELETE FROM flotilla.outbox_parked AS p WHERE p.tenant_id = tenant AND p.session_id = session
        RETURNING p.* INTO parked;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    IF replacement IS NOT NULL THEN
        INSERT INTO flotilla.outbox_replaced (tenant_id, session_id, seq, event_id, body, error)
        SELECT o.tenant_id, o.session_id, o.seq, o.event_id, o.body, parked.error
        FROM flotilla.event_outbox AS o WHERE o.id = parked.outbox_id
        ON CONFLICT DO NOTHING;
    END IF;
    WITH taken AS (
        DELETE FROM flotilla.event_outbox AS o
        WHERE o.id >= parked.outbox_id AND o.tenant_id = tenant AND o.session_id = session
        RETURNING o.*
    )
    INSERT INTO flotilla.event_outbox (lane, tenant_id, session_id, seq, event_id, body, created_at, traceparent)
    SELECT t.lane, t.tenant_id, t.session_id, t.seq, t.event_id,
           CASE WHEN t.id = parked.outbox_id AND replacement IS NOT NULL THEN replacement ELSE t.body END,
           t.created_at, t.traceparent
    FROM taken AS t ORDER BY t.seq;
    GET DIAGNOSTICS waiting = ROW_COUNT;
    RETURN waiting;
END
$$;
ALTER FUNCTION flotilla.redrive_outbox(text, bytea) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.redrive_outbox(text, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.redrive_outbox(text, bytea) TO flotilla_app;

-- Rows that wait for Kafka, parked sessions left out, capped at 10001, and the age of the oldest in seconds:
-- for the relay's gauges, the gateway and KEDA's postgresql scaler (SELECT rows FROM flotilla.outbox_backlog()).
CREATE FUNCTION flotilla.outbox_backlog() RETURNS TABLE (rows bigint, oldest_seconds double precision)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog
    AS $$
    SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(waiting.created_at)), 0)::double precision
    FROM (
        SELECT o.created_at FROM flotilla.event_outbox AS o
        WHERE (o.tenant_id, o.session_id) NOT IN (SELECT p.tenant_id, p.session_id FROM flotilla.outbox_parked AS p)
        ORDER BY o.id LIMIT 10001
    ) AS waiting
    $$;
ALTER FUNCTION flotilla.outbox_backlog() OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.outbox_backlog() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.outbox_backlog() TO flotilla_app, flotilla_relay, flotilla_scaler;
