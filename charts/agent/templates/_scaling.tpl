{{- define "agent.scalingModifiers" -}}
{{- include "flotilla-service.streamModifiers" . }}
{{- end }}

{{- define "agent.triggers" -}}
{{- $agent := include "flotilla-service.agent" . -}}
{{- include "flotilla-service.streamTriggers" (dict "root" . "stream" (printf "flotilla.tasks.%s" $agent) "group" (printf "%s-agents" $agent)) }}
{{- end }}
