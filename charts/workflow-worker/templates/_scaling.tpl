{{- define "workflow-worker.scalingModifiers" -}}
{{- end }}

{{/* Backlog says that work waits; processor time says that the workers at hand are busy. Never backlog alone. */}}
{{- define "workflow-worker.triggers" -}}
{{- $temporal := dict "root" . "dependency" "temporal" -}}
- type: temporal
  name: backlog
  metadata:
    endpoint: {{ include "flotilla-service.addressForKeda" (merge (dict "key" "address" "hint" "Example: temporal-frontend:7233.") $temporal) | quote }}
    namespace: {{ include "flotilla-service.dependency" (merge (dict "key" "namespace") $temporal) | default "default" | quote }}
    taskQueue: {{ include "flotilla-service.setting" (dict "root" . "name" "FLOTILLA_TASK_QUEUE" "default" "rag-agent-queue") | quote }}
    queueTypes: workflow,activity
    targetQueueSize: {{ .Values.autoscaling.keda.backlogPerPod | quote }}
    activationTargetQueueSize: "0"
  {{- with include "flotilla-service.authenticationRef" . }}
  {{- . | nindent 2 }}
  {{- end }}
- type: cpu
  name: cpu
  metricType: Utilization
  metadata:
    value: {{ .Values.autoscaling.keda.targetCPUUtilizationPercentage | quote }}
{{- end }}
