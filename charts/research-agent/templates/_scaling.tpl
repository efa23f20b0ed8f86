{{- define "research-agent.scalingModifiers" -}}
{{- include "flotilla-service.streamModifiers" . }}
{{- end }}

{{- define "research-agent.triggers" -}}
{{- include "flotilla-service.streamTriggers" (dict "root" . "stream" "flotilla.tasks.research" "group" "research-agents") }}
{{- end }}
