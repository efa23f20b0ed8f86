"""The agent SDK beside an agent in another language: the task function runs in its process, everything else here.

The process that has the function (the worker) connects over loopback and describes the agent; then tasks reach it as
lines of one response, and what `TaskContext` offers is a request. `docs/foreign-agents.md` has the protocol.
"""
