{{- define "outbox-relay.scalingModifiers" -}}
{{- end }}

{{- define "outbox-relay.triggers" -}}
- type: postgresql
  name: backlog
  metadata:
    query: {{ .Values.autoscaling.keda.query | quote }}
    targetQueryValue: {{ .Values.autoscaling.keda.backlogPerPod | quote }}
    activationTargetQueryValue: "0"
  authenticationRef:
    name: {{ include "flotilla-service.fullname" . }}
{{- end }}
