{{/*
Files that a service reads: the audit consumer's signing key (a Secret), the public keys that the gateway checks its
signatures with (a ConfigMap), the worker's key that signs tasks (a Secret) and its public half, which every agent needs (a
ConfigMap), the root keys of encryption (a Secret, for gateway and worker), the approval policy (a ConfigMap) that the gateway and the worker must share; an agent's table of prices and the tool
gateway's MCP servers (ConfigMaps).
*/}}
{{- define "flotilla-service.signingKeySecret" -}}
{{- $fleet := ((.Values.global | default dict).signingKey | default dict).existingSecret -}}
{{- $secret := .Values.signingKey.existingSecret | default $fleet | default "" | dict "root" . "text" | include "flotilla-service.named" -}}
{{- if not $secret -}}
{{- fail (printf "%s needs a signing key: set signingKey.existingSecret (or global.signingKey.existingSecret for the whole fleet). Its key %s holds an Ed25519 private key in PEM: openssl genpkey -algorithm ed25519" .Chart.Name .Values.signingKey.key) -}}
{{- end -}}
{{- $secret -}}
{{- end }}

{{- define "flotilla-service.publicKeysConfigMap" -}}
{{- $fleet := ((.Values.global | default dict).publicKeys | default dict).existingConfigMap | default "" -}}
{{- (.Values.publicKeys | default dict).existingConfigMap | default $fleet | dict "root" . "text" | include "flotilla-service.named" -}}
{{- end }}

{{/* The worker's key of tickets, and the agents' public ones: neither runs without. */}}
{{- define "flotilla-service.ticketKeySecret" -}}
{{- $fleet := ((.Values.global | default dict).ticketKey | default dict).existingSecret -}}
{{- $secret := .Values.ticketKey.existingSecret | default $fleet | default "" | dict "root" . "text" | include "flotilla-service.named" -}}
{{- if not $secret -}}
{{- fail (printf "%s needs the key that signs tasks: set ticketKey.existingSecret (or global.ticketKey.existingSecret for the whole fleet). Its key %s holds an Ed25519 private key in PEM: openssl genpkey -algorithm ed25519" .Chart.Name .Values.ticketKey.key) -}}
{{- end -}}
{{- $secret -}}
{{- end }}

{{- define "flotilla-service.ticketPublicKeysConfigMap" -}}
{{- $fleet := ((.Values.global | default dict).ticketPublicKeys | default dict).existingConfigMap -}}
{{- $map := .Values.ticketPublicKeys.existingConfigMap | default $fleet | default "" | dict "root" . "text" | include "flotilla-service.named" -}}
{{- if not $map -}}
{{- fail (printf "%s needs the public keys of tickets: set ticketPublicKeys.existingConfigMap (or global.ticketPublicKeys.existingConfigMap for the whole fleet). Its key %s holds the public half of the worker's key in PEM: openssl pkey -pubout" .Chart.Name .Values.ticketPublicKeys.key) -}}
{{- end -}}
{{- $map -}}
{{- end }}

{{/* The root keys of encryption: empty where the fleet does not encrypt. */}}
{{- define "flotilla-service.encryptionSecret" -}}
{{- $fleet := ((.Values.global | default dict).encryption | default dict).existingSecret | default "" -}}
{{- (.Values.encryption | default dict).existingSecret | default $fleet | dict "root" . "text" | include "flotilla-service.named" -}}
{{- end }}

{{/* With keys alone all read what is encrypted, and nobody encrypts yet: the step before, in an upgrade of a fleet at work. */}}
{{- define "flotilla-service.encryptionSwitch" -}}
- name: FLOTILLA_ENCRYPTION
  value: {{ ((.Values.global | default dict).encryption | default dict).keysOnly | default false | ternary "off" "on" | quote }}
{{- end }}

{{/* Where an agent asks for keys of sessions, since it gets no root key: empty where the fleet does not encrypt. */}}
{{- define "flotilla-service.sessionKeysUrl" -}}
{{- if .Values.sessionKeys.url -}}
{{- .Values.sessionKeys.url -}}
{{- else if ((.Values.global | default dict).encryption | default dict).existingSecret -}}
http://{{ contains "workflow-worker" .Release.Name | ternary .Release.Name (printf "%s-workflow-worker" .Release.Name) | trunc 53 | trimSuffix "-" }}
{{- end -}}
{{- end }}

{{- define "flotilla-service.approvalPolicy" -}}
{{- mergeOverwrite (dict "builtin" "" "existingConfigMap" "" "key" "policy.toml") ((.Values.global | default dict).approvalPolicy | default dict) (.Values.approvalPolicy | default dict | include "flotilla-service.onlySet" | fromYaml) | toYaml -}}
{{- end }}

{{- define "flotilla-service.voteRoots" -}}
{{- mergeOverwrite (dict "existingConfigMap" "" "key" "roots.toml") ((.Values.global | default dict).voteRoots | default dict) (.Values.voteRoots | default dict | include "flotilla-service.onlySet" | fromYaml) | toYaml -}}
{{- end }}

{{/* The entries of a dict that are not empty. */}}
{{- define "flotilla-service.onlySet" -}}
{{- $set := dict -}}
{{- range $key, $value := . }}
{{- if $value }}
{{- $_ := set $set $key $value -}}
{{- end }}
{{- end }}
{{- toYaml $set -}}
{{- end }}

{{- define "flotilla-service.fileEnv" -}}
{{- if hasKey .Values "signingKey" }}
- name: FLOTILLA_AUDIT_SIGNING_KEY_FILE
  value: /etc/flotilla/signing/{{ .Values.signingKey.key }}
{{- end }}
{{- if and (hasKey .Values "publicKeys") (include "flotilla-service.publicKeysConfigMap" .) }}
- name: FLOTILLA_AUDIT_PUBLIC_KEY_FILE
  value: /etc/flotilla/public-keys/{{ .Values.publicKeys.key }}
{{- end }}
{{- if hasKey .Values "ticketKey" }}
- name: FLOTILLA_TICKET_KEY_FILE
  value: /etc/flotilla/tickets/{{ .Values.ticketKey.key }}
{{- end }}
{{- if hasKey .Values "ticketPublicKeys" }}
- name: FLOTILLA_TICKET_PUBLIC_KEY_FILE
  value: /etc/flotilla/tickets/{{ .Values.ticketPublicKeys.key }}
{{- end }}
{{- if and (hasKey .Values "encryption") (include "flotilla-service.encryptionSecret" .) }}
{{ include "flotilla-service.encryptionSwitch" . }}
- name: FLOTILLA_ENCRYPTION_KEY_FILE
  value: /etc/flotilla/encryption/{{ .Values.encryption.key }}
{{- end }}
{{- if hasKey .Values "sessionKeys" }}
{{- with include "flotilla-service.sessionKeysUrl" . }}
{{ include "flotilla-service.encryptionSwitch" $ }}
- name: FLOTILLA_SESSION_KEYS_URL
  value: {{ . }}
{{- end }}
{{- end }}
{{- if hasKey .Values "approvalPolicy" }}
{{- $policy := include "flotilla-service.approvalPolicy" . | fromYaml }}
{{- if $policy.existingConfigMap }}
- name: FLOTILLA_APPROVAL_POLICY
  value: /etc/flotilla/policy/{{ $policy.key }}
{{- else if $policy.builtin }}
- name: FLOTILLA_APPROVAL_POLICY
  value: {{ printf "builtin:%s" $policy.builtin }}
{{- end }}
{{- end }}
{{- if hasKey .Values "voteRoots" }}
{{- $roots := include "flotilla-service.voteRoots" . | fromYaml }}
{{- if $roots.existingConfigMap }}
- name: FLOTILLA_VOTE_ROOTS
  value: /etc/flotilla/vote-roots/{{ $roots.key }}
{{- end }}
{{- end }}
{{- range $name, $variable := dict "llmPrices" "FLOTILLA_LLM_PRICES" "mcpServers" "FLOTILLA_MCP_SERVERS_FILE" }}
{{- $file := get $.Values $name | default dict }}
{{- if $file.existingConfigMap }}
- name: {{ $variable }}
  value: /etc/flotilla/{{ kebabcase $name }}/{{ $file.key }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.fileMounts" -}}
{{- if hasKey .Values "signingKey" }}
- name: signing-key
  mountPath: /etc/flotilla/signing
  readOnly: true
{{- end }}
{{- if and (hasKey .Values "publicKeys") (include "flotilla-service.publicKeysConfigMap" .) }}
- name: public-keys
  mountPath: /etc/flotilla/public-keys
  readOnly: true
{{- end }}
{{- if or (hasKey .Values "ticketKey") (hasKey .Values "ticketPublicKeys") }}
- name: tickets
  mountPath: /etc/flotilla/tickets
  readOnly: true
{{- end }}
{{- if and (hasKey .Values "encryption") (include "flotilla-service.encryptionSecret" .) }}
- name: encryption
  mountPath: /etc/flotilla/encryption
  readOnly: true
{{- end }}
{{- if hasKey .Values "approvalPolicy" }}
{{- if (include "flotilla-service.approvalPolicy" . | fromYaml).existingConfigMap }}
- name: approval-policy
  mountPath: /etc/flotilla/policy
  readOnly: true
{{- end }}
{{- end }}
{{- if hasKey .Values "voteRoots" }}
{{- if (include "flotilla-service.voteRoots" . | fromYaml).existingConfigMap }}
- name: vote-roots
  mountPath: /etc/flotilla/vote-roots
  readOnly: true
{{- end }}
{{- end }}
{{- range $name := list "llmPrices" "mcpServers" }}
{{- if (get $.Values $name | default dict).existingConfigMap }}
- name: {{ kebabcase $name }}
  mountPath: /etc/flotilla/{{ kebabcase $name }}
  readOnly: true
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.fileVolumes" -}}
{{- if hasKey .Values "signingKey" }}
- name: signing-key
  secret:
    secretName: {{ include "flotilla-service.signingKeySecret" . }}
    defaultMode: 0440
{{- end }}
{{- if hasKey .Values "publicKeys" }}
{{- with include "flotilla-service.publicKeysConfigMap" . }}
- name: public-keys
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
{{- if hasKey .Values "ticketKey" }}
- name: tickets
  secret:
    secretName: {{ include "flotilla-service.ticketKeySecret" . }}
    defaultMode: 0440
{{- end }}
{{- if hasKey .Values "ticketPublicKeys" }}
- name: tickets
  configMap:
    name: {{ include "flotilla-service.ticketPublicKeysConfigMap" . }}
{{- end }}
{{- if hasKey .Values "encryption" }}
{{- with include "flotilla-service.encryptionSecret" . }}
- name: encryption
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- if hasKey .Values "approvalPolicy" }}
{{- with (include "flotilla-service.approvalPolicy" . | fromYaml).existingConfigMap }}
- name: approval-policy
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
{{- if hasKey .Values "voteRoots" }}
{{- with (include "flotilla-service.voteRoots" . | fromYaml).existingConfigMap }}
- name: vote-roots
  configMap:
    name: {{ . }}
{{- end }}
{{- end }}
{{- range $name := list "llmPrices" "mcpServers" }}
{{- with (get $.Values $name | default dict).existingConfigMap }}
- name: {{ kebabcase $name }}
  configMap:
    name: {{ dict "root" $ "text" . | include "flotilla-service.named" }}
{{- end }}
{{- end }}
{{- end }}
