{{- define "workflow-worker.scalingModifiers" -}}
{{- end }}

{{/* Backlog says that work waits; slots in use say that the workers at hand are busy. Never backlog alone. */}}
{{- define "workflow-worker.triggers" -}}
{{- $temporal := dict "root" . "dependency" "temporal" -}}
- type: temporal
  name: backlog
  metadata:
    endpoint: {{ include "flotilla-service.addressForKeda" (merge (dict "key" "address" "hint" "Example: temporal-frontend:7233.") $temporal) | quote }}
    namespace: {{ include "flotilla-service.dependency" (merge (dict "key" "namespace") $temporal) | default "default" | quote }}
    taskQueue: rag-agent-queue
    queueTypes: workflow,activity
    targetQueueSize: {{ .Values.autoscaling.keda.backlogPerPod | quote }}
    activationTargetQueueSize: "0"
  {{- with include "flotilla-service.authenticationRef" . }}
  {{- . | nindent 2 }}
  {{- end }}
- type: cpu
  name: slots
  metricType: Utilization
  metadata:
    value: {{ .Values.autoscaling.keda.targetCPUUtilizationPercentage | quote }}
{{- end }}
