{{/*
What a service talks to. Its Chart.yaml names it in the annotation `flotilla/uses`; addresses and Secrets come from
`dependencies`, or from `global.dependencies` where the fleet is installed as one. Secrets are named, never inlined.
*/}}
{{- define "flotilla-service.uses" -}}
{{- has .dependency (include "flotilla-service.usesList" .root | fromYamlArray) | ternary "yes" "" -}}
{{- end }}

{{/* All that it talks to; an agent says itself whether it asks a language model. */}}
{{- define "flotilla-service.usesList" -}}
{{- $uses := splitList "," (index .Chart.Annotations "flotilla/uses") -}}
{{- if (.Values.agent | default dict).llm }}{{ $uses = append $uses "llm" }}{{ end -}}
{{- toYaml $uses -}}
{{- end }}

{{/* One setting of one dependency: the chart's own value, else the fleet's. Call with root, dependency, key. */}}
{{- define "flotilla-service.dependency" -}}
{{- $own := index (.root.Values.dependencies | default dict) .dependency | default dict -}}
{{- $fleet := index ((.root.Values.global | default dict).dependencies | default dict) .dependency | default dict -}}
{{- include "flotilla-service.named" (dict "root" .root "text" (index $own .key | default (index $fleet .key) | default "")) -}}
{{- end }}

{{/* A name in the values, which may be a template: two demos in one namespace differ by `global.demoName`. */}}
{{- define "flotilla-service.named" -}}
{{- if contains "{{" (.text | toString) }}{{ tpl .text .root }}{{ else }}{{ .text }}{{ end -}}
{{- end }}

{{/* The same, but a render without it fails and says what to set. */}}
{{- define "flotilla-service.required" -}}
{{- $value := include "flotilla-service.dependency" . -}}
{{- if not $value -}}
{{- fail (printf "%s needs %s: set dependencies.%s.%s (or global.dependencies.%s.%s for the whole fleet). %s" .root.Chart.Name .dependency .dependency .key .dependency .key .hint) -}}
{{- end -}}
{{- $value -}}
{{- end }}

{{- define "flotilla-service.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
{{- end }}

{{/* The file with a server's certificate authority: from a Secret, or one that extraVolumes mounts. Call as "dependency". */}}
{{- define "flotilla-service.caEnv" -}}
{{- $file := include "flotilla-service.dependency" (merge (dict "key" "caFile") .) -}}
{{- if include "flotilla-service.dependency" (merge (dict "key" "caSecret") .) }}{{ $file = printf "/etc/flotilla/ca/%s/ca.crt" .dependency }}{{ end -}}
{{- with $file }}
- name: FLOTILLA_{{ upper $.dependency }}_CA_FILE
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* The certificate that the service itself shows, from a Secret. Call as "dependency". */}}
{{- define "flotilla-service.certEnv" -}}
{{- if include "flotilla-service.dependency" (merge (dict "key" "certSecret") .) }}
- name: FLOTILLA_{{ upper .dependency }}_CERT_FILE
  value: /etc/flotilla/cert/{{ .dependency }}/tls.crt
- name: FLOTILLA_{{ upper .dependency }}_KEY_FILE
  value: /etc/flotilla/cert/{{ .dependency }}/tls.key
{{- end }}
{{- end }}

{{- define "flotilla-service.caMounts" -}}
{{- range $dependency := include "flotilla-service.usesList" . | fromYamlArray }}
{{- if include "flotilla-service.dependency" (dict "root" $ "dependency" . "key" "caSecret") }}
- name: {{ . }}-ca
  mountPath: /etc/flotilla/ca/{{ . }}
  readOnly: true
{{- end }}
{{- if include "flotilla-service.dependency" (dict "root" $ "dependency" . "key" "certSecret") }}
- name: {{ . }}-cert
  mountPath: /etc/flotilla/cert/{{ . }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.caVolumes" -}}
{{- range $dependency := include "flotilla-service.usesList" . | fromYamlArray }}
{{- with include "flotilla-service.dependency" (dict "root" $ "dependency" . "key" "caSecret") }}
- name: {{ $dependency }}-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: {{ include "flotilla-service.dependency" (dict "root" $ "dependency" $dependency "key" "caKey") | default "ca.crt" }}, path: ca.crt}
{{- end }}
{{- with include "flotilla-service.dependency" (dict "root" $ "dependency" . "key" "certSecret") }}
- name: {{ $dependency }}-cert
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.dependencyEnv" -}}
{{- $root := . -}}
{{- if include "flotilla-service.uses" (dict "root" . "dependency" "postgres") }}
{{- $at := dict "root" $root "dependency" "postgres" }}
{{- $secret := include "flotilla-service.required" (merge (dict "key" "existingSecret" "hint" (printf "Its key (default: %s) holds a DSN such as postgresql://%s:PASSWORD@HOST:5432/flotilla." (include "flotilla-service.postgresRole" $root) (include "flotilla-service.postgresRole" $root))) $at) }}
{{- $key := include "flotilla-service.dependency" (merge (dict "key" "key") $at) | default (include "flotilla-service.postgresRole" $root) }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_POSTGRES_DSN" "secret" $secret "key" $key) }}
{{- include "flotilla-service.caEnv" $at }}
{{- end }}
{{- if include "flotilla-service.uses" (dict "root" . "dependency" "redis") }}
{{- $at := dict "root" $root "dependency" "redis" }}
{{- $secret := include "flotilla-service.required" (merge (dict "key" "existingSecret" "hint" (printf "Its key (default: %s) holds a URL such as redis://USER:PASSWORD@HOST:6379/0." (include "flotilla-service.service" $root))) $at) }}
{{- $key := include "flotilla-service.dependency" (merge (dict "key" "key") $at) | default (include "flotilla-service.service" $root) }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_REDIS_URL" "secret" $secret "key" $key) }}
{{- end }}
{{- if include "flotilla-service.uses" (dict "root" . "dependency" "kafka") }}
{{- $at := dict "root" $root "dependency" "kafka" }}
- name: FLOTILLA_KAFKA_BOOTSTRAP_SERVERS
  value: {{ include "flotilla-service.required" (merge (dict "key" "bootstrapServers" "hint" "Example: kafka:9092.") $at) | quote }}
- name: FLOTILLA_KAFKA_SECURITY_PROTOCOL
  value: {{ include "flotilla-service.dependency" (merge (dict "key" "securityProtocol") $at) | default "PLAINTEXT" | quote }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "saslMechanism") $at) }}
- name: FLOTILLA_KAFKA_SASL_MECHANISM
  value: {{ . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "topicPrefix") $at) }}
- name: FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC
  value: {{ printf "%ssession-events" . | quote }}
- name: FLOTILLA_KAFKA_CHECKPOINTS_TOPIC
  value: {{ printf "%saudit-checkpoints" . | quote }}
- name: FLOTILLA_AUDIT_GROUP
  value: {{ printf "%saudit-consumer" . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "durability") $at) }}
- name: FLOTILLA_KAFKA_DURABILITY
  value: {{ . | quote }}
{{- end }}
{{- include "flotilla-service.caEnv" $at }}
{{- include "flotilla-service.certEnv" $at }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "tokenCommand") $at) }}
- name: FLOTILLA_KAFKA_TOKEN_COMMAND
  value: {{ . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "existingSecret") $at) }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_KAFKA_USERNAME" "secret" . "key" "username") }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_KAFKA_PASSWORD" "secret" . "key" "password") }}
{{- end }}
{{- end }}
{{- if include "flotilla-service.uses" (dict "root" . "dependency" "temporal") }}
{{- $at := dict "root" $root "dependency" "temporal" }}
- name: FLOTILLA_TEMPORAL_ADDRESS
  value: {{ include "flotilla-service.required" (merge (dict "key" "address" "hint" "Example: temporal-frontend:7233.") $at) | quote }}
- name: FLOTILLA_TEMPORAL_NAMESPACE
  value: {{ include "flotilla-service.dependency" (merge (dict "key" "namespace") $at) | default "default" | quote }}
{{- if include "flotilla-service.dependency" (merge (dict "key" "tls") $at) }}
- name: FLOTILLA_TEMPORAL_TLS
  value: "true"
{{- end }}
{{- include "flotilla-service.caEnv" $at }}
{{- include "flotilla-service.certEnv" $at }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "serverName") $at) }}
- name: FLOTILLA_TEMPORAL_SERVER_NAME
  value: {{ . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "existingSecret") $at) }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_TEMPORAL_API_KEY" "secret" . "key" "api-key") }}
{{- end }}
{{- end }}
{{- if include "flotilla-service.uses" (dict "root" . "dependency" "llm") }}
{{- $at := dict "root" $root "dependency" "llm" }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "baseUrl") $at) }}
- name: OPENAI_BASE_URL
  value: {{ . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "model") $at) }}
- name: FLOTILLA_LLM_MODEL
  value: {{ . | quote }}
{{- end }}
{{- with include "flotilla-service.dependency" (merge (dict "key" "existingSecret") $at) }}
{{ include "flotilla-service.secretEnv" (dict "name" "OPENAI_API_KEY" "secret" . "key" "api-key") }}
{{- end }}
{{- end }}
{{- end }}

{{/* The database role of a service, which is also the default key of its DSN in the Secret. Each agent has its own. */}}
{{- define "flotilla-service.postgresRole" -}}
{{- if hasKey .Values "agent" -}}
flotilla_agent_{{ include "flotilla-service.agent" . }}
{{- else -}}
{{- index .Chart.Annotations "flotilla/postgres-role" -}}
{{- end -}}
{{- end }}
