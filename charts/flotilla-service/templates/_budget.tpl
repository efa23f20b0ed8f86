{{/*
The most connections that a service opens to PostgreSQL: its pool in each pod, at the most replicas there can be, and in those
that a rolling update adds.
*/}}
{{- define "flotilla-service.connections" -}}
{{- $pool := index .Chart.Annotations "flotilla/postgres-connections" | default "0" -}}
{{- /* The relay's pool is small whatever the setting says. */}}
{{- if ne (include "flotilla-service.kind" .) "outbox-relay" -}}
{{- $pool = include "flotilla-service.setting" (dict "root" . "name" "FLOTILLA_POSTGRES_POOL_MAX" "default" $pool) -}}
{{- end -}}
{{- $pods := int (include "flotilla-service.mostReplicas" .) -}}
{{- if (.Values.versioning | default dict).builds -}}
{{- $pods = 0 -}}
{{- range .Values.versioning.builds }}{{ $pods = add $pods .replicas }}{{ end -}}
{{- end -}}
{{- $surge := .Values.maxSurge | toString -}}
{{- $extra := int $surge -}}
{{- if hasSuffix "%" $surge }}{{ $extra = div (add (mul (trimSuffix "%" $surge | int) $pods) 99) 100 }}{{ end -}}
{{- mul (add $pods $extra) (int $pool) -}}
{{- end }}
