{{- define "writer-agent.scalingModifiers" -}}
{{- include "flotilla-service.streamModifiers" . }}
{{- end }}

{{- define "writer-agent.triggers" -}}
{{- include "flotilla-service.streamTriggers" (dict "root" . "stream" "flotilla.tasks.write" "group" "write-agents") }}
{{- end }}
