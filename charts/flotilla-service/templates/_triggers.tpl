{{/*
What KEDA's scalers need to reach Redis. The scaler takes an address, not a URL, so the address is a setting of its own.
*/}}
{{- define "flotilla-service.redisTrigger" -}}
address: {{ include "flotilla-service.required" (dict "root" . "dependency" "redis" "key" "address" "mend" "KEDA needs it as host:6379, without scheme and password.") | quote }}
{{- if include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "tls") }}
enableTLS: "true"
{{- end }}
{{- end }}

{{- define "flotilla-service.redisAuthenticationRef" -}}
{{- if include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "scalerSecret") -}}
authenticationRef:
  name: {{ include "flotilla-service.fullname" . }}
{{- end }}
{{- end }}

{{/* Two triggers, lag and pending, joined by scalingModifiers. Call with root, stream and group. */}}
{{- define "flotilla-service.streamTriggers" -}}
{{- $each := .root.Values.autoscaling.keda.tasksPerPod | quote -}}
- type: redis-streams
  name: lag
  metadata:
    {{- include "flotilla-service.redisTrigger" .root | nindent 4 }}
    stream: {{ .stream }}
    consumerGroup: {{ .group }}
    lagCount: {{ $each }}
    activationLagCount: "0"
  {{- include "flotilla-service.redisAuthenticationRef" .root | nindent 2 }}
- type: redis-streams
  name: pending
  metadata:
    {{- include "flotilla-service.redisTrigger" .root | nindent 4 }}
    stream: {{ .stream }}
    consumerGroup: {{ .group }}
    pendingEntriesCount: {{ $each }}
  {{- include "flotilla-service.redisAuthenticationRef" .root | nindent 2 }}
{{- end }}

{{/* Lag alone calls work in hand idle, so the sum of both counts; only zero of both is zero pods. */}}
{{- define "flotilla-service.streamModifiers" -}}
scalingModifiers:
  formula: "lag + pending"
  target: {{ .Values.autoscaling.keda.tasksPerPod | quote }}
  activationTarget: "0"
  metricType: AverageValue
{{- end }}

{{- define "flotilla-service.redisAuthentication" -}}
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  secretTargetRef:
    {{- range $parameter := list "username" "password" }}
    - parameter: {{ $parameter }}
      name: {{ include "flotilla-service.dependency" (dict "root" $ "dependency" "redis" "key" "scalerSecret") }}
      key: {{ $parameter }}
    {{- end }}
{{- end }}
