{{/*
Names and labels. A chart's own name is the service's name: image, Deployment and metrics carry it.
*/}}
{{- define "flotilla-service.service" -}}
{{- .Chart.Name -}}
{{- end }}

{{/* One Deployment per listed build id carries that id in its name. */}}
{{- define "flotilla-service.deploymentName" -}}
{{- $name := include "flotilla-service.fullname" . -}}
{{- if .Values.buildId -}}
{{- printf "%s-%s" $name (.Values.buildId | lower | replace "." "-" | replace "_" "-") | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{- define "flotilla-service.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "flotilla-service.selectorLabels" -}}
app.kubernetes.io/name: {{ include "flotilla-service.service" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flotilla-service.podSelectorLabels" -}}
{{ include "flotilla-service.selectorLabels" . }}
{{- with .Values.buildId }}
flotilla/build-id: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "flotilla-service.labels" -}}
{{ include "flotilla-service.selectorLabels" . }}
app.kubernetes.io/version: {{ include "flotilla-service.tag" . | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/part-of: flotilla
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flotilla-service.tag" -}}
{{- $global := (.Values.global | default dict).image | default dict -}}
{{- .Values.image.tag | default $global.tag | default .Chart.AppVersion -}}
{{- end }}

{{- define "flotilla-service.image" -}}
{{- $global := (.Values.global | default dict).image | default dict -}}
{{- $repository := .Values.image.repository | default (printf "%s/%s" ($global.repository | default "flotilla") .Chart.Name) -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (include "flotilla-service.tag" .) -}}
{{- end -}}
{{- end }}

{{- define "flotilla-service.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "flotilla-service.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}
