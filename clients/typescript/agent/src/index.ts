export { agent, Agent, type AgentOptions, type Call, tool, type Tool, type ToolOptions, type Tools } from "./agent.js";
export { TaskContext, type Turn } from "./context.js";
export { ApprovalPending, FlotillaError, Refused, TaskCancelled } from "./errors.js";
export { serve, type ServeOptions } from "./serve.js";
