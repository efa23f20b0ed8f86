{{- define "flotilla-service.autoscaled" -}}
{{- or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled | ternary "yes" "" -}}
{{- end }}

{{- define "flotilla-service.hpa" -}}
{{- $hpa := .Values.autoscaling.hpa -}}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    apiVersion: apps/v1
    kind: Deployment
    name: {{ include "flotilla-service.fullname" . }}
  minReplicas: {{ $hpa.minReplicas }}
  maxReplicas: {{ $hpa.maxReplicas }}
  metrics:
    - type: Resource
      resource:
        name: cpu
        target:
          type: Utilization
          averageUtilization: {{ $hpa.targetCPUUtilizationPercentage }}
    {{- with $hpa.extraMetrics }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $hpa.behavior }}
  behavior:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* The triggers are the service's own: its chart defines "<kind>.triggers" and "<kind>.scalingModifiers". */}}
{{- define "flotilla-service.scaledObject" -}}
{{- $keda := .Values.autoscaling.keda -}}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  scaleTargetRef:
    name: {{ include "flotilla-service.fullname" . }}
  minReplicaCount: {{ $keda.minReplicas }}
  maxReplicaCount: {{ $keda.maxReplicas }}
  pollingInterval: {{ $keda.pollingIntervalSeconds }}
  cooldownPeriod: {{ $keda.cooldownSeconds }}
  {{- $modifiers := include (printf "%s.scalingModifiers" (include "flotilla-service.kind" .)) . }}
  {{- if or $keda.behavior $modifiers }}
  advanced:
    {{- with $keda.behavior }}
    horizontalPodAutoscalerConfig:
      behavior:
        {{- toYaml . | nindent 8 }}
    {{- end }}
    {{- with $modifiers }}
    {{- . | nindent 4 }}
    {{- end }}
  {{- end }}
  triggers:
    {{- include (printf "%s.triggers" (include "flotilla-service.kind" .)) . | nindent 4 }}
    {{- with $keda.extraTriggers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}
