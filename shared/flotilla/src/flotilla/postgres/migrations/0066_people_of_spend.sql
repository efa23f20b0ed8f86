-- What a session's calls cost is shown to those who may see the session, as its calls are.
CREATE POLICY people_flotilla_gateway ON flotilla.llm_spend AS RESTRICTIVE TO flotilla_gateway
    USING ((SELECT flotilla_ops.sees_all()) OR EXISTS (SELECT FROM flotilla.sessions AS s
        WHERE s.tenant_id = llm_spend.tenant_id AND s.session_id = llm_spend.session_id));
