{{- define "flotilla-service.notes" -}}
{{ include "flotilla-service.service" . }} {{ include "flotilla-service.tag" . }} is installed as {{ include "flotilla-service.deploymentName" . }}.

Watch it become ready (it waits for its dependencies, and says in its log which one is missing):
  kubectl -n {{ include "flotilla-service.namespace" . }} rollout status deployment/{{ include "flotilla-service.deploymentName" . }}
  kubectl -n {{ include "flotilla-service.namespace" . }} logs deployment/{{ include "flotilla-service.deploymentName" . }}
{{- if include "flotilla-service.tested" . }}
Check it:
  helm -n {{ include "flotilla-service.namespace" . }} test {{ .Release.Name }}
{{- end }}
{{- if .Values.service }}
Reach it at http://localhost:8080:
  kubectl -n {{ include "flotilla-service.namespace" . }} port-forward service/{{ include "flotilla-service.fullname" . }} 8080:{{ .Values.service.port }}
{{- end }}
The schema, the topics and the consumer groups come from the install Job of the chart flotilla, or from
`python -m flotilla.install` in the gateway's image. `helm uninstall` removes all that this chart made.
{{- end }}
