{{/*
Names and labels. A chart's own name, or its alias, is the service's name: image, Deployment and metrics carry it. The chart
of agents, installed alone, takes the name of its agent.
*/}}
{{- define "flotilla-service.service" -}}
{{- if and .Values.agent (eq .Chart.Name "agent") -}}
{{- .Values.agent.service | default (printf "%s-agent" (include "flotilla-service.agent" .)) -}}
{{- else -}}
{{- .Chart.Name -}}
{{- end -}}
{{- end }}

{{/* What a service scales by: "agent" for every agent, what the annotation says for a worker of one's own, else its name. */}}
{{- define "flotilla-service.kind" -}}
{{- hasKey .Values "agent" | ternary "agent" (index (.Chart.Annotations | default dict) "flotilla/kind" | default .Chart.Name) -}}
{{- end }}

{{/* The agent's name in the contract, of which its streams, its group and its Redis user are made. */}}
{{- define "flotilla-service.agent" -}}
{{- $name := .Values.agent.name -}}
{{- if not (regexMatch "^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$" ($name | toString)) -}}
{{- fail (printf "%s: agent.name is %q: set it to the name that the agent's code has, as in Agent(\"translate\"); its streams, its group and its scaling go by it" .Chart.Name ($name | toString)) -}}
{{- end -}}
{{- $name -}}
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
{{- $name := default (include "flotilla-service.service" .) .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "flotilla-service.namespace" -}}
{{- .Values.namespaceOverride | default (.Values.global | default dict).namespaceOverride | default .Release.Namespace -}}
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
{{- include "flotilla-service.commonLabels" . }}
{{- end }}

{{/* The labels that the values add: the fleet's, and the service's own over them. */}}
{{- define "flotilla-service.commonLabels" -}}
{{- with mergeOverwrite (deepCopy ((.Values.global | default dict).commonLabels | default dict)) (.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "flotilla-service.tag" -}}
{{- $global := (.Values.global | default dict).image | default dict -}}
{{- .Values.image.tag | default $global.tag | default .Chart.AppVersion -}}
{{- end }}

{{- define "flotilla-service.image" -}}
{{- $global := (.Values.global | default dict).image | default dict -}}
{{- $repository := .Values.image.repository | default (printf "%s/%s" ($global.repository | default "localhost/flotilla") (include "flotilla-service.service" .)) -}}
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
