-- The gateway asks; only the audit consumer says what came of it, and a confirmation is never written with the request.
REVOKE INSERT ON audit.requests FROM flotilla_gateway;
GRANT INSERT (tenant_id, request_id, kind, session_id, requested_by, reason, needs_confirmation, accept_loss)
    ON audit.requests TO flotilla_gateway;
