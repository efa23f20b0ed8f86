{{- /* Call with this chart's scope and Agents, the names of those that the fleet adds. */}}
{{- define "flotilla-demo.secrets" }}
{{- /* One random password per role, from which the DSNs are made, so that both are kept together. KEDA asks from another
namespace: hence the servers' long names. */}}
{{- $name := .Values.name }}
{{- $roles := dict }}
{{- range list "owner" "flotilla_gateway" "flotilla_worker" "flotilla_relay" "flotilla_audit" "flotilla_scaler" "flotilla_backup" }}
{{- $_ := set $roles . (randAlphaNum 32) }}
{{- end }}
{{- range concat (list "research" "write" "mcp") .Agents }}
{{- $_ := set $roles (printf "flotilla_agent_%s" .) (randAlphaNum 32) }}
{{- end }}
{{- $passwords := include "flotilla-demo.kept" (dict "root" $ "name" (printf "%s-roles" $name) "new" $roles) | fromYaml }}
{{- $dsns := dict }}
{{- range $role, $password := $passwords }}
{{- $user := eq $role "owner" | ternary "postgres" $role }}
{{- $_ := set $dsns $role (printf "postgresql://%s:%s@%s-postgres.%s.svc:5432/flotilla" $user ($password | b64dec) $name (include "flotilla-service.namespace" $) | b64enc) }}
{{- end }}
{{- /* A Redis user for each service, with the rights that `python -m flotilla.bus.acl` prints: files/redis-users.acl. That
of an agent which the fleet's values add has the rights of the research agent, on streams of its own. */}}
{{- $keys := dict "gateway" "gateway" "workflow-worker" "workflow-worker" "research-agent" "research-agent" "writer-agent" "write-agent" "tool-gateway" "mcp-agent" }}
{{- $acl := .Files.Get "files/redis-users.acl" }}
{{- $pattern := regexFind "user research-agent .*\n" $acl }}
{{- range .Agents }}
{{- $_ := set $keys (printf "%s-agent" .) (printf "%s-agent" .) }}
{{- $acl = printf "%s%s" $acl ($pattern | replace "research" .) }}
{{- end }}
{{- $new := dict "admin" (randAlphaNum 32) "scaler" (randAlphaNum 32) }}
{{- range $keys }}
{{- $_ := set $new . (randAlphaNum 32) }}
{{- end }}
{{- $redis := include "flotilla-demo.kept" (dict "root" $ "name" (printf "%s-redis-users" $name) "new" $new) | fromYaml }}
{{- range $user, $password := $redis }}
{{- $acl = $acl | replace (printf "#SHA256-OF-%s\n" $user) (printf "#%s\n" ($password | b64dec | sha256sum)) }}
{{- end }}
{{- $urls := dict "username" ("scaler" | b64enc) "password" $redis.scaler "users.acl" ($acl | b64enc) }}
{{- range $key, $user := $keys }}
{{- $_ := set $urls $key (printf "redis://%s:%s@%s-redis:6379/0" $user (index $redis $user | b64dec) $name | b64enc) }}
{{- end }}
{{- $_ := set $urls "install" (printf "redis://default:%s@%s-redis:6379/0" ($redis.admin | b64dec) $name | b64enc) }}
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-roles" $name) "data" (toYaml $passwords)) }}
---
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-postgres" $name) "data" (toYaml $dsns)) }}
---
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-redis-users" $name) "data" (toYaml $redis)) }}
---
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-redis" $name) "data" (toYaml $urls)) }}
---
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-admin" $name) "data" (include "flotilla-demo.kept" (dict "root" $ "name" (printf "%s-admin" $name) "new" (dict "admin-key" (randAlphaNum 48))))) }}
---
{{- /* A certificate is how a template makes the public half of a key; nobody reads more from it than that. */}}
{{- $signing := include "flotilla-demo.kept" (dict "root" $ "name" (printf "%s-signing" $name) "new" (dict "signing-key.pem" (genPrivateKey "ed25519"))) }}
{{- $key := index ($signing | fromYaml) "signing-key.pem" | b64dec }}
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-signing" $name) "data" $signing) }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-signing
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-demo.labels" (dict "root" $ "server" "secrets") | nindent 4 }}
data:
  public-keys.pem: {{ (genSelfSignedCertWithKey (printf "%s-signing" $name) nil nil 3650 $key).Cert | toJson }}
---
{{- $tickets := include "flotilla-demo.kept" (dict "root" $ "name" (printf "%s-tickets" $name) "new" (dict "ticket-key.pem" (genPrivateKey "ed25519"))) }}
{{- $ticketKey := index ($tickets | fromYaml) "ticket-key.pem" | b64dec }}
{{ include "flotilla-demo.secret" (dict "root" $ "name" (printf "%s-tickets" $name) "data" $tickets) }}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: {{ $name }}-tickets
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-demo.labels" (dict "root" $ "server" "secrets") | nindent 4 }}
data:
  ticket-public-keys.pem: {{ (genSelfSignedCertWithKey (printf "%s-tickets" $name) nil nil 3650 $ticketKey).Cert | toJson }}
{{- end }}
