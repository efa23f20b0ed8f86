"""All workflows of the worker."""

from workflow_worker.workflows.approval import HumanInTheLoopWorkflow
from workflow_worker.workflows.order import OrderProcessingSaga
from workflow_worker.workflows.pipeline import PipelineWorkflow
from workflow_worker.workflows.rag import RagAgentWorkflow

WORKFLOWS: list[type] = [RagAgentWorkflow, HumanInTheLoopWorkflow, OrderProcessingSaga, PipelineWorkflow]
