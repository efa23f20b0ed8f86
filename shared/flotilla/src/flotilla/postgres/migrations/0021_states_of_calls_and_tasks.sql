-- An approved call of an agent's tool is `approved` until the tool ran.
ALTER TABLE flotilla.actions DROP CONSTRAINT actions_status_check;
ALTER TABLE flotilla.actions ADD CONSTRAINT actions_status_check CHECK (status IN
    ('pending', 'running', 'awaiting_approval', 'approved', 'completed', 'rejected', 'timeout', 'failed', 'cancelled'))
    NOT VALID;
CREATE INDEX actions_approved ON flotilla.actions (tenant_id) WHERE status = 'approved';

-- A task with an open approval waits for it.
CREATE INDEX approvals_pending_by_session ON flotilla.approvals (tenant_id, session_id) WHERE status = 'pending';

-- How long a task of the agent may take: the workflow waits as long.
ALTER TABLE flotilla_ops.agents ADD COLUMN timeout_s double precision;
