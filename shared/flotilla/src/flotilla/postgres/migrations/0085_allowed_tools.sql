-- Tools of MCP servers: what the tool gateway saw each server offer, and what a tenant's administrators allowed of it.

-- Of the fleet: a server is configured once. `tenants` are those whose administrators may allow its tools, `*` all.
CREATE TABLE flotilla_ops.offered_tools (
    server text NOT NULL,
    tool text NOT NULL,
    sha256 text NOT NULL,
    definition jsonb NOT NULL,
    risk text NOT NULL CHECK (risk IN ('low', 'medium', 'high')),
    tenants text[] NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (server, tool)
);
ALTER TABLE flotilla_ops.offered_tools ENABLE ROW LEVEL SECURITY;
CREATE POLICY to_tenants ON flotilla_ops.offered_tools FOR SELECT TO flotilla_gateway, flotilla_app
    USING (tenants && ARRAY['*', flotilla_ops.current_tenant()]);
GRANT SELECT ON flotilla_ops.offered_tools TO flotilla_gateway, flotilla_app;

-- What a tenant allowed: the hash is the pin, the definition what was read when it was allowed.
CREATE TABLE flotilla.allowed_tools (
    tenant_id text NOT NULL,
    server text NOT NULL,
    tool text NOT NULL,
    sha256 text NOT NULL,
    definition jsonb NOT NULL,
    allowed_by text NOT NULL,
    allowed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, server, tool)
);
SELECT flotilla_ops.protect('flotilla.allowed_tools');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla.allowed_tools TO flotilla_gateway, flotilla_app;
GRANT SELECT ON flotilla.allowed_tools TO flotilla_agent;
-- Agents see what their task's tenant allowed: names and schemas of the tools that they may ask for.
CREATE POLICY task ON flotilla.allowed_tools FOR SELECT TO flotilla_agent
    USING (tenant_id = (SELECT h.tenant_id FROM flotilla.held_task() AS h));

-- Replace what `server` offers, and return how many of the allowed tools, of all tenants, it describes otherwise. Only
-- for the tool gateway.
CREATE FUNCTION flotilla.note_offered_tools(of_server text, for_tenants text[], offered jsonb) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT flotilla_ops.is_agent('mcp') THEN
        RAISE insufficient_privilege USING MESSAGE = 'only the tool gateway notes what MCP servers offer';
    END IF;
    DELETE FROM flotilla_ops.offered_tools AS o WHERE o.server = of_server
        AND NOT EXISTS (SELECT FROM jsonb_array_elements(offered) AS e WHERE e.value ->> 'tool' = o.tool);
    INSERT INTO flotilla_ops.offered_tools AS o (server, tool, sha256, definition, risk, tenants)
    SELECT of_server, e.value ->> 'tool', e.value ->> 'sha256', e.value -> 'definition', e.value ->> 'risk', for_tenants
    FROM jsonb_array_elements(offered) AS e
    ON CONFLICT (server, tool) DO UPDATE SET
        sha256 = excluded.sha256, definition = excluded.definition, risk = excluded.risk, tenants = excluded.tenants,
        seen_at = now(),
        changed_at = CASE WHEN o.sha256 = excluded.sha256 THEN o.changed_at ELSE now() END;
    RETURN (SELECT count(*) FROM flotilla.allowed_tools AS a JOIN flotilla_ops.offered_tools AS o USING (server, tool)
            WHERE a.server = of_server AND a.sha256 <> o.sha256);
END
$$;
SELECT flotilla_ops.open_to('flotilla.allowed_tools', 'flotilla_definer');
SELECT flotilla_ops.open_to('flotilla_ops.offered_tools', 'flotilla_definer');
GRANT SELECT, INSERT, UPDATE, DELETE ON flotilla_ops.offered_tools TO flotilla_definer;
GRANT SELECT ON flotilla.allowed_tools TO flotilla_definer;
ALTER FUNCTION flotilla.note_offered_tools(text, text[], jsonb) OWNER TO flotilla_definer;
REVOKE ALL ON FUNCTION flotilla.note_offered_tools(text, text[], jsonb) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flotilla.note_offered_tools(text, text[], jsonb) TO flotilla_agent;
