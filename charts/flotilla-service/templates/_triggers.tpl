{{/*
An address as KEDA, which runs in a namespace of its own, can resolve it: a Service's short name gets the release's. Call as
"required"; several addresses are joined by commas.
*/}}
{{- define "flotilla-service.addressForKeda" -}}
{{- $namespace := include "flotilla-service.namespace" .root -}}
{{- $addresses := list -}}
{{- range include "flotilla-service.required" . | splitList "," -}}
{{- $host := trim . | splitList ":" | first -}}
{{- $addresses = append $addresses (contains "." $host | ternary (trim .) (trim . | replace $host (printf "%s.%s.svc" $host $namespace))) -}}
{{- end -}}
{{- join "," $addresses -}}
{{- end }}

{{/*
What KEDA's scalers need to reach Redis. The scaler takes an address, not a URL, so the address is a setting of its own.
*/}}
{{- define "flotilla-service.redisTrigger" -}}
{{- $primary := include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "sentinelPrimary") -}}
{{- with $primary -}}
sentinelMaster: {{ . | quote }}
{{ end -}}
{{ ternary "addresses" "address" (ne $primary "") }}: {{ include "flotilla-service.addressForKeda" (dict "root" . "dependency" "redis" "key" "address" "hint" "KEDA needs it as host:6379, without scheme and password.") | quote }}
{{- if include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "tls") }}
enableTLS: "true"
{{- end }}
{{- with include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "database") }}
databaseIndex: {{ . | quote }}
{{- end }}
{{- end }}

{{- define "flotilla-service.redisScaler" -}}
{{- include "flotilla-service.dependency" (dict "root" . "dependency" "redis" "key" "sentinelPrimary") | empty | ternary "redis-streams" "redis-sentinel-streams" -}}
{{- end }}

{{/* Two triggers, lag and pending, joined by scalingModifiers. Call with root, stream and group. */}}
{{- define "flotilla-service.streamTriggers" -}}
{{- $each := .root.Values.autoscaling.keda.tasksPerPod | quote -}}
- type: {{ include "flotilla-service.redisScaler" .root }}
  name: lag
  metadata:
    {{- include "flotilla-service.redisTrigger" .root | nindent 4 }}
    stream: {{ .stream }}
    consumerGroup: {{ .group }}
    lagCount: {{ $each }}
    activationLagCount: "0"
  {{- with include "flotilla-service.authenticationRef" .root }}
  {{- . | nindent 2 }}
  {{- end }}
- type: {{ include "flotilla-service.redisScaler" .root }}
  name: pending
  metadata:
    {{- include "flotilla-service.redisTrigger" .root | nindent 4 }}
    stream: {{ .stream }}
    consumerGroup: {{ .group }}
    pendingEntriesCount: {{ $each }}
  {{- with include "flotilla-service.authenticationRef" .root }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Lag alone calls work in hand idle, so the sum of both counts; only zero of both is zero pods. */}}
{{- define "flotilla-service.streamModifiers" -}}
scalingModifiers:
  formula: "lag + pending"
  target: {{ .Values.autoscaling.keda.tasksPerPod | quote }}
  activationTarget: "0"
  metricType: AverageValue
{{- end }}

{{/* A plain setting as the container gets it, so that scalers follow the service. Call with root, name and default. */}}
{{- define "flotilla-service.setting" -}}
{{- $value := .default -}}
{{- range include "flotilla-service.environment" .root | fromYamlArray -}}
{{- if and (eq .name $.name) .value }}{{ $value = .value }}{{ end -}}
{{- end -}}
{{- $value -}}
{{- end }}

{{/*
Where KEDA's scaler finds its credentials, by parameter; empty where none are set. The annotation `flotilla/scales-by` names
the dependency that it asks: streams by a Redis user for scaling, the outbox by the DSN of role flotilla_scaler.
*/}}
{{- define "flotilla-service.scalerSecrets" -}}
{{- $by := index .Chart.Annotations "flotilla/scales-by" | default "" }}
{{- $secret := include "flotilla-service.dependency" (dict "root" . "dependency" $by "key" "scalerSecret") }}
{{- if and (not $secret) (ne $by "redis") }}
{{- $secret = include "flotilla-service.dependency" (dict "root" . "dependency" $by "key" "existingSecret") }}
{{- end }}
{{- if eq $by "postgres" }}
{{- with .Values.autoscaling.keda.scalerSecret | default $secret }}
connection: {secret: {{ . }}, key: flotilla_scaler}
{{- end }}
{{- else if and $secret (eq $by "temporal") }}
apiKey: {secret: {{ $secret }}, key: api-key}
{{- else if $secret }}
username: {secret: {{ $secret }}, key: username}
password: {secret: {{ $secret }}, key: password}
{{- end }}
{{- if eq $by "kafka" }}
{{- with include "flotilla-service.dependency" (dict "root" . "dependency" "kafka" "key" "caSecret") }}
ca: {secret: {{ . }}, key: {{ include "flotilla-service.dependency" (dict "root" $ "dependency" "kafka" "key" "caKey") | default "ca.crt" }}}
{{- end }}
{{- with include "flotilla-service.dependency" (dict "root" . "dependency" "kafka" "key" "certSecret") }}
cert: {secret: {{ . }}, key: tls.crt}
key: {secret: {{ . }}, key: tls.key}
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.authenticationRef" -}}
{{- if include "flotilla-service.scalerSecrets" . | fromYaml -}}
authenticationRef:
  name: {{ include "flotilla-service.fullname" . }}
{{- end }}
{{- end }}

{{- define "flotilla-service.triggerAuthentication" -}}
apiVersion: keda.sh/v1alpha1
kind: TriggerAuthentication
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  secretTargetRef:
    {{- range $parameter, $at := include "flotilla-service.scalerSecrets" . | fromYaml }}
    - parameter: {{ $parameter }}
      name: {{ $at.secret }}
      key: {{ $at.key }}
    {{- end }}
{{- end }}
