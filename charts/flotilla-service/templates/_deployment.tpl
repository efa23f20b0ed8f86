{{- define "flotilla-service.deployment" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ include "flotilla-service.deploymentName" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.deploymentAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- if not (include "flotilla-service.autoscaled" .) }}
  replicas: {{ .Values.replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  {{- with .Values.minReadySeconds }}
  minReadySeconds: {{ . }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "flotilla-service.podSelectorLabels" . | nindent 6 }}
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: {{ .Values.maxSurge }}
  template:
    metadata:
      labels:
        {{- include "flotilla-service.labels" . | nindent 8 }}
        {{- with .Values.buildId }}
        flotilla/build-id: {{ . | quote }}
        {{- end }}
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        checksum/environment: {{ include "flotilla-service.environment" . | sha256sum }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: {{ include "flotilla-service.serviceAccountName" . }}
      automountServiceAccountToken: false
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ add .Values.drainSeconds 10 ((.Values.service | default dict).lingerSeconds | default 0) }}
      securityContext:
        {{- toYaml .Values.podSecurityContext | nindent 8 }}
      {{- with .Values.imagePullSecrets | default (.Values.global | default dict).imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with include "flotilla-service.placement" (dict "own" .Values "root" .) }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .Values.topologySpreadConstraints }}
      topologySpreadConstraints:
        {{- range . }}
        - {{ toYaml (mergeOverwrite (dict "labelSelector" (dict "matchLabels" (include "flotilla-service.selectorLabels" $ | fromYaml))) .) | nindent 10 | trim }}
        {{- end }}
      {{- end }}
      {{- with .Values.initContainers }}
      initContainers:
        {{- tpl (toYaml .) $ | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ include "flotilla-service.service" . }}
          image: {{ include "flotilla-service.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          env:
            {{- include "flotilla-service.environment" . | nindent 12 }}
          {{- with .Values.envFrom }}
          envFrom:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            {{- include "flotilla-service.containerPorts" . | nindent 12 }}
          startupProbe:
            {{- toYaml .Values.startupProbe | nindent 12 }}
          livenessProbe:
            {{- toYaml .Values.livenessProbe | nindent 12 }}
          readinessProbe:
            {{- toYaml .Values.readinessProbe | nindent 12 }}
          {{- if .Values.lifecycle }}
          lifecycle:
            {{- toYaml .Values.lifecycle | nindent 12 }}
          {{- else if (.Values.service | default dict).lingerSeconds }}
          lifecycle:
            preStop:
              sleep:
                seconds: {{ .Values.service.lingerSeconds }}
          {{- end }}
          {{- /* The reason why a pod ended is in its state, where `kubectl describe` shows it. */}}
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            {{- toYaml .Values.resources | nindent 12 }}
          securityContext:
            {{- toYaml .Values.securityContext | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- with include "flotilla-service.caMounts" . }}
            {{- . | nindent 12 }}
            {{- end }}
            {{- include "flotilla-service.fileMounts" . | nindent 12 }}
            {{- with .Values.extraVolumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
        {{- with .Values.extraContainers }}
        {{- tpl (toYaml .) $ | nindent 8 }}
        {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 64Mi
        {{- with include "flotilla-service.caVolumes" . }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- include "flotilla-service.fileVolumes" . | nindent 8 }}
        {{- with .Values.extraVolumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
{{- end }}

{{/* Where a pod may run: its own settings, else the fleet's. Call with own and root. */}}
{{- define "flotilla-service.placement" -}}
{{- $fleet := .root.Values.global | default dict -}}
{{- with .own.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .own.nodeSelector | default $fleet.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations | default $fleet.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "flotilla-service.containerPorts" -}}
- name: metrics
  containerPort: {{ .Values.metrics.port }}
{{- range $name, $port := .Values.extraPorts }}
- name: {{ $name }}
  containerPort: {{ $port }}
{{- end }}
{{- end }}

{{- define "flotilla-service.environment" -}}
- name: FLOTILLA_METRICS_PORT
  value: {{ .Values.metrics.port | quote }}
{{- with .Values.bindAddress | default (.Values.global | default dict).bindAddress }}
- name: FLOTILLA_METRICS_HOST
  value: {{ . | quote }}
{{- if $.Values.service }}
- name: FLOTILLA_HTTP_HOST
  value: {{ . | quote }}
{{- end }}
{{- end }}
- name: FLOTILLA_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: FLOTILLA_DRAIN_S
  value: {{ .Values.drainSeconds | quote }}
{{- with .Values.otlpEndpoint | default (.Values.global | default dict).otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.otlpHeadersSecret | default (.Values.global | default dict).otlpHeadersSecret }}
{{ include "flotilla-service.secretEnv" (dict "name" "OTEL_EXPORTER_OTLP_HEADERS" "secret" . "key" "headers") }}
{{- end }}
{{- if hasKey .Values "openRuns" }}
{{- range $kind, $most := mergeOverwrite (dict) ((.Values.global | default dict).openRuns | default dict) (.Values.openRuns | include "flotilla-service.onlySet" | fromYaml) }}
{{- $name := printf "FLOTILLA_OPEN_RUNS_%s" (snakecase $kind | upper) }}
{{- if and $most (not (hasKey ($.Values.settings | default dict) $name)) }}
- name: {{ $name }}
  value: {{ int64 $most | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- if hasKey .Values "agent" }}
- name: FLOTILLA_AGENT_NAME
  value: {{ include "flotilla-service.agent" . }}
{{- if and (((.Values.global | default dict).toolGateway | default dict).atOnce) (ne (include "flotilla-service.service" .) "tool-gateway") (not (hasKey (.Values.settings | default dict) "FLOTILLA_TOOL_GATEWAY_URL")) }}
- name: FLOTILLA_TOOL_GATEWAY_URL
  value: http://{{ contains "tool-gateway" .Release.Name | ternary .Release.Name (printf "%s-tool-gateway" .Release.Name) | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- include "flotilla-service.dependencyEnv" . }}
{{- include "flotilla-service.fileEnv" . }}
{{- with .Values.buildId }}
- name: FLOTILLA_BUILD_ID
  value: {{ . | quote }}
{{- end }}
{{- if and .Values.service (eq (include "flotilla-service.service" .) "gateway") (not (hasKey (.Values.settings | default dict) "FLOTILLA_MCP_HOSTS")) }}
{{- $name := include "flotilla-service.fullname" . }}
{{- $inNamespace := printf "%s.%s" $name (include "flotilla-service.namespace" .) }}
{{- $hosts := list $name $inNamespace (printf "%s.svc" $inNamespace) (printf "%s.svc.cluster.local" $inNamespace) }}
- name: FLOTILLA_MCP_HOSTS
  value: {{ join "," (concat $hosts (.Values.ingress.enabled | ternary .Values.ingress.hosts list)) | quote }}
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
