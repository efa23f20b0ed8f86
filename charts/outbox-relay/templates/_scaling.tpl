{{- define "outbox-relay.scalingModifiers" -}}
{{- end }}

{{- define "outbox-relay.triggers" -}}
{{- if not (index (include "flotilla-service.scalerSecrets" . | fromYaml) "connection") -}}
{{- fail "outbox-relay: KEDA needs the DSN of role flotilla_scaler: set autoscaling.keda.scalerSecret to the Secret whose key flotilla_scaler holds it" -}}
{{- end -}}
- type: postgresql
  name: backlog
  metadata:
    query: {{ .Values.autoscaling.keda.query | quote }}
    targetQueryValue: {{ .Values.autoscaling.keda.backlogPerPod | quote }}
    activationTargetQueryValue: "0"
  authenticationRef:
    name: {{ include "flotilla-service.fullname" . }}
{{- end }}
