{{- define "flotilla.check" -}}
{{- if and (index .Values "flotilla-demo").enabled (eq .Values.install.mode "hook") -}}
{{- fail "flotilla: install.mode is hook and flotilla-demo is enabled, so the hook would wait for a database that comes after it: set install.mode=job" -}}
{{- end -}}
{{- end }}
