{{- define "flotilla.backupSelector" -}}
app.kubernetes.io/name: backup
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flotilla.backupLabels" -}}
{{ include "flotilla.backupSelector" . }}
app.kubernetes.io/part-of: flotilla
{{- include "flotilla-service.commonLabels" . }}
{{- end }}

{{- define "flotilla.backupName" -}}
{{- printf "%s-backup" (.Release.Name | trunc 40 | trimSuffix "-") -}}
{{- end }}

{{/* What the library's templates need to see of it: it reads the database and the topics, and changes neither. */}}
{{- define "flotilla.backupScope" -}}
Values:
  global: {{ .Values.global | toJson }}
  dependencies: {{ .Values.backup.dependencies | toJson }}
  networkPolicy: {{ .Values.agentDefaults.networkPolicy | toJson }}
Chart:
  Name: backup
  Annotations: {flotilla/uses: "postgres,kafka", flotilla/postgres-role: flotilla_backup}
{{- end }}

{{- define "flotilla.backupEnvironment" -}}
{{- $keys := list -}}
{{- range .Values.backup.keys }}{{ $keys = append $keys (printf "/etc/flotilla/backup-keys/%s" .) }}{{ end -}}
{{- include "flotilla-service.dependencyEnv" (include "flotilla.backupScope" . | fromYaml) }}
- name: FLOTILLA_BACKUP_SIGNING_KEY_FILE
  value: /etc/flotilla/backup-keys/backup-signing.pem
- name: FLOTILLA_BACKUP_KEYS
  value: {{ join "," $keys | quote }}
{{- if .Values.backup.passphraseSecret }}
- name: FLOTILLA_BACKUP_PASSPHRASE_FILE
  value: /etc/flotilla/backup-passphrase/passphrase
{{- end }}
{{- end }}
