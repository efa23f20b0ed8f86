{{- define "gateway.scalingModifiers" -}}
{{- end }}

{{- define "gateway.triggers" -}}
- type: cpu
  name: cpu
  metricType: Utilization
  metadata:
    value: {{ .Values.autoscaling.keda.targetCPUUtilizationPercentage | quote }}
{{- end }}
