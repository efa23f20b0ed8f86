{{- define "flotilla-service.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "flotilla-service.serviceAccountName" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}

{{- define "flotilla-service.pdb" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  maxUnavailable: {{ .Values.podDisruptionBudget.maxUnavailable }}
  selector:
    matchLabels:
      {{- include "flotilla-service.selectorLabels" . | nindent 6 }}
{{- end }}

{{/* The most replicas there can be; a budget makes sense only above one. */}}
{{- define "flotilla-service.mostReplicas" -}}
{{- if .Values.autoscaling.hpa.enabled -}}
{{- .Values.autoscaling.hpa.maxReplicas -}}
{{- else if .Values.autoscaling.keda.enabled -}}
{{- .Values.autoscaling.keda.maxReplicas -}}
{{- else -}}
{{- .Values.replicas -}}
{{- end -}}
{{- end }}

{{- define "flotilla-service.podMonitor" -}}
apiVersion: monitoring.coreos.com/v1
kind: PodMonitor
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
    {{- with .Values.metrics.podMonitor.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "flotilla-service.selectorLabels" . | nindent 6 }}
  podMetricsEndpoints:
    - port: metrics
      interval: {{ .Values.metrics.podMonitor.interval }}
      {{- include "flotilla-service.relabelings" . | nindent 6 }}
    {{- range $name, $_ := .Values.extraPorts }}
    {{- if hasPrefix "metrics" $name }}
    - port: {{ $name }}
      interval: {{ $.Values.metrics.podMonitor.interval }}
      {{- /* The Temporal SDK's own label of that name must not hide the pod's namespace. */}}
      honorLabels: false
      {{- include "flotilla-service.relabelings" $ | nindent 6 }}
    {{- end }}
    {{- end }}
{{- end }}

{{/* Every series says which release it comes from, so that fleets under one Prometheus don't hide each other's faults. */}}
{{- define "flotilla-service.relabelings" -}}
relabelings:
  - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance]
    targetLabel: release
  {{- with .Values.metrics.podMonitor.relabelings }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.metrics.podMonitor.metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Addresses of the ready pods' health port: what `helm test` asks. */}}
{{- define "flotilla-service.healthService" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flotilla-service.fullname" . }}-health
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  {{- with include "flotilla-service.ipFamilies" . }}
  {{- . | nindent 2 }}
  {{- end }}
  clusterIP: None
  selector:
    {{- include "flotilla-service.selectorLabels" . | nindent 4 }}
  ports:
    - name: metrics
      port: {{ .Values.metrics.port }}
      targetPort: metrics
{{- end }}

{{/* A service that may rest at no pods has nobody to ask. */}}
{{- define "flotilla-service.tested" -}}
{{- $rests := or (and .Values.autoscaling.keda.enabled (eq (int .Values.autoscaling.keda.minReplicas) 0)) (and (not (include "flotilla-service.autoscaled" .)) (eq (int .Values.replicas) 0)) -}}
{{- and .Values.tests.enabled (not $rests) | ternary "yes" "" -}}
{{- end }}

{{- define "flotilla-service.testLabels" -}}
app.kubernetes.io/name: {{ include "flotilla-service.service" . }}-test
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* `helm test`: the pods of this release are ready, asked from inside by the service's own image. */}}
{{- define "flotilla-service.test" -}}
apiVersion: v1
kind: Pod
metadata:
  name: {{ include "flotilla-service.fullname" . }}-test
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.testLabels" . | nindent 4 }}
    app.kubernetes.io/part-of: flotilla
    {{- with include "flotilla-service.commonLabels" . }}
    {{- trim . | nindent 4 }}
    {{- end }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  {{- with .Values.imagePullSecrets | default (.Values.global | default dict).imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "flotilla-service.placement" (dict "own" .Values "root" .) }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: test
      image: {{ include "flotilla-service.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [/app/bin/python, -m, flotilla.runtime.probe]
      args: ["http://{{ include "flotilla-service.fullname" . }}-health.{{ include "flotilla-service.namespace" . }}:{{ .Values.metrics.port }}/readyz"]
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
{{- end }}

{{/* The Deployment; with worker versioning one per listed build id. */}}
{{- define "flotilla-service.deployments" -}}
{{- if (.Values.versioning | default dict).builds }}
{{- range .Values.versioning.builds }}
---
{{- $image := merge (dict "tag" (.tag | default "") "digest" (.digest | default "")) (omit $.Values.image "tag" "digest") }}
{{- $values := mergeOverwrite (deepCopy (omit $.Values "image")) (dict "buildId" .id "image" $image "replicas" .replicas) }}
{{ include "flotilla-service.deployment" (dict "Values" $values "Chart" $.Chart "Release" $.Release "Capabilities" $.Capabilities "Template" $.Template) }}
{{- end }}
{{- else }}
{{ include "flotilla-service.deployment" . }}
{{- end }}
{{- end }}

{{- define "flotilla-service.all" -}}
{{- include "flotilla-service.checkRenamed" . -}}
{{- include "flotilla-service.checkAutoscaling" . -}}
{{ include "flotilla-service.deployments" . }}
---
{{ include "flotilla-service.healthService" . }}
{{- if .Values.serviceAccount.create }}
---
{{ include "flotilla-service.serviceAccount" . }}
{{- end }}
{{- if .Values.service }}
---
{{ include "flotilla-service.serviceObject" . }}
{{- end }}
{{- if (.Values.httpRoute | default dict).enabled }}
---
{{ include "flotilla-service.httpRoute" . }}
{{- end }}
{{- if (.Values.ingress | default dict).enabled }}
---
{{ include "flotilla-service.ingress" . }}
{{- end }}
{{- if .Values.autoscaling.hpa.enabled }}
---
{{ include "flotilla-service.hpa" . }}
{{- end }}
{{- if .Values.autoscaling.keda.enabled }}
---
{{ include "flotilla-service.scaledObject" . }}
{{- if include "flotilla-service.scalerSecrets" . | fromYaml }}
---
{{ include "flotilla-service.triggerAuthentication" . }}
{{- end }}
{{- end }}
{{- if and .Values.podDisruptionBudget.enabled (gt (int (include "flotilla-service.mostReplicas" .)) 1) }}
---
{{ include "flotilla-service.pdb" . }}
{{- end }}
{{- if .Values.networkPolicy.enabled }}
---
{{ include "flotilla-service.networkPolicy" . }}
{{- end }}
{{- if .Values.metrics.podMonitor.enabled }}
---
{{ include "flotilla-service.podMonitor" . }}
{{- end }}
{{- if include "flotilla-service.tested" . }}
---
{{ include "flotilla-service.test" . }}
{{- if .Values.networkPolicy.enabled }}
---
{{ include "flotilla-service.testPolicy" . }}
{{- end }}
{{- end }}
{{- range .Values.extraObjects }}
---
{{ tpl (toYaml .) $ }}
{{- end }}
{{- end }}
