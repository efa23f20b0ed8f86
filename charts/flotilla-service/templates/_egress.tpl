{{/*
What a service may call: its usual ports, the settings that hold its address, and settings that turn it on. A public one is
usually on the internet: then no private address is reached. Of a service of the fleet, only its pods are reached.
*/}}
{{- define "flotilla-service.destinations" -}}
- {name: postgres, ports: [5432]}
- {name: redis, ports: [6379]}
- {name: kafka, ports: [9092, 9093], settings: [FLOTILLA_KAFKA_BOOTSTRAP_SERVERS]}
- {name: temporal, ports: [7233], settings: [FLOTILLA_TEMPORAL_ADDRESS]}
- {name: llm, ports: [443], settings: [OPENAI_BASE_URL, FLOTILLA_LLM_PROXY, HTTPS_PROXY], when: [OPENAI_API_KEY, OPENAI_BASE_URL], public: true}
- {name: embeddings, ports: [443], settings: [FLOTILLA_EMBEDDING_URL, FLOTILLA_RERANK_URL], when: [FLOTILLA_EMBEDDING_URL, FLOTILLA_RERANK_URL], public: true}
- {name: oidc, ports: [443], settings: [FLOTILLA_OIDC_ISSUER, FLOTILLA_OIDC_JWKS_URL], when: [FLOTILLA_OIDC_ISSUER], public: true}
- {name: tools, ports: [8080], settings: [FLOTILLA_TOOL_GATEWAY_URL], when: [FLOTILLA_TOOL_GATEWAY_URL], service: tool-gateway}
- {name: sessionKeys, ports: [8081], settings: [FLOTILLA_SESSION_KEYS_URL], when: [FLOTILLA_SESSION_KEYS_URL], service: workflow-worker}
- {name: vault, ports: [8200], settings: [FLOTILLA_ENCRYPTION_VAULT_URL], when: [FLOTILLA_ENCRYPTION_VAULT_URL]}
- {name: webhooks, ports: [443], settings: [FLOTILLA_APPROVAL_WEBHOOK_URLS, FLOTILLA_NOTIFY_HOSTS, FLOTILLA_AUDIT_WITNESSES, FLOTILLA_AUDIT_STAMP_URL], when: [FLOTILLA_APPROVAL_WEBHOOK_URLS, FLOTILLA_NOTIFY_HOSTS, FLOTILLA_AUDIT_WITNESSES, FLOTILLA_AUDIT_STAMP_URL], public: true}
- {name: actions, ports: [443], settings: [FLOTILLA_ACTION_HTTP_HOSTS], when: [FLOTILLA_ACTION_HTTP_HOSTS], public: true}
- {name: otlp, ports: [4318], settings: [OTEL_EXPORTER_OTLP_ENDPOINT], when: [OTEL_EXPORTER_OTLP_ENDPOINT]}
{{- end }}

{{/* The egress rules of one pod. Call with root, uses (names of dependencies) and environment (of its container). */}}
{{- define "flotilla-service.egress" -}}
{{ include "flotilla-service.dnsRule" .root }}
{{- range $destination := include "flotilla-service.destinations" . | fromYamlArray }}
{{- $own := include "flotilla-service.egressSettings" (dict "root" $.root "name" .name) | fromYaml }}
{{- $on := or (has .name $.uses) (index $.root.Values.networkPolicy.egress .name | default dict).to }}
{{- range $.environment }}
{{- $on = or $on (has .name ($destination.when | default list)) }}
{{- end }}
{{- if $on }}
{{- $addresses := include "flotilla-service.addresses" (merge (dict "destination" $destination) $) | fromYamlArray }}
{{- $ports := $own.ports }}
{{- if not $ports }}
{{- $ports = .ports }}
{{- range $addresses }}{{ if .port }}{{ $ports = append $ports .port }}{{ end }}{{ end }}
{{- end }}
- to:
    {{- if $own.to }}
    {{- toYaml $own.to | nindent 4 }}
    {{- else }}
    {{- include "flotilla-service.peersOf" (dict "addresses" $addresses "public" .public "service" .service) | nindent 4 }}
    {{- end }}
  ports:
    {{- range uniq $ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.dnsRule" -}}
- to:
    {{- include "flotilla-service.dnsPeers" . | nindent 4 }}
  ports:
    {{- range (include "flotilla-service.dns" . | fromYaml).ports }}
    - {port: {{ int . }}, protocol: UDP}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
{{- end }}

{{/* Peers and ports that the values give a destination: the chart's own, else the fleet's. */}}
{{- define "flotilla-service.egressSettings" -}}
{{- $own := index .root.Values.networkPolicy.egress .name | default dict -}}
{{- $fleet := (.root.Values.global | default dict).networkPolicy | default dict -}}
{{- dict "to" ($own.to | default (index ($fleet.egress | default dict) .name)) "ports" ($own.ports | default (index ($fleet.ports | default dict) .name)) | toYaml -}}
{{- end }}

{{- define "flotilla-service.dns" -}}
{{- $fleet := ((.Values.global | default dict).networkPolicy | default dict).dns | default dict -}}
{{- $own := .Values.networkPolicy.dns -}}
{{- dict "to" ($own.to | default $fleet.to) "ports" ($own.ports | default $fleet.ports | default (list 53)) | toYaml -}}
{{- end }}

{{- define "flotilla-service.dnsPeers" -}}
{{- with (include "flotilla-service.dns" . | fromYaml).to -}}
{{- toYaml . -}}
{{- else -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: kube-system
{{- end -}}
{{- end }}

{{/*
The addresses in the values and the environment, as a list of host and port. An address is `[scheme://][user@]host[:port]`; a
port is written, or follows from the scheme. Call with root, destination and environment.
*/}}
{{- define "flotilla-service.addresses" -}}
{{- $texts := list (include "flotilla-service.dependency" (dict "root" .root "dependency" .destination.name "key" "address")) -}}
{{- range $variable := .environment -}}
{{- if has $variable.name ($.destination.settings | default list) }}{{ $texts = append $texts ($variable.value | default "") }}{{ end -}}
{{- end -}}
{{- $addresses := list -}}
{{- range join "," $texts | splitList "," -}}
{{- $authority := regexReplaceAll "[/?#].*$" (regexReplaceAll "^[a-z0-9+]+://" (trim .) "") "" -}}
{{- $authority = regexReplaceAll "^.*@" $authority "" -}}
{{- $scheme := regexFind "^https?:" (trim .) | default "none" -}}
{{- $port := regexFind ":[0-9]+$" $authority | trimPrefix ":" | default (dict "https:" "443" "http:" "80" | dig $scheme "0") -}}
{{- $host := regexReplaceAll ":[0-9]+$" $authority "" | trimPrefix "[" | trimSuffix "]" -}}
{{- if $host }}{{ $addresses = append $addresses (dict "host" $host "port" (int $port)) }}{{ end -}}
{{- end -}}
{{- toYaml $addresses -}}
{{- end }}

{{/*
Where addresses are. A policy knows no names, so: an IP address is itself; `name` is in the release's namespace;
`name.namespace.svc`, and for a server `name.namespace`, is in that one; any other name is outside the cluster.
*/}}
{{- define "flotilla-service.peersOf" -}}
{{- $peers := list -}}
{{- $pods := dict -}}
{{- with .service }}{{ $pods = dict "matchLabels" (dict "app.kubernetes.io/name" .) }}{{ end -}}
{{- range .addresses -}}
{{- $labels := splitList "." .host -}}
{{- if regexMatch "^[0-9.]+$" .host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/32" .host))) -}}
{{- else if contains ":" .host -}}
{{- $peers = append $peers (dict "ipBlock" (dict "cidr" (printf "%s/128" .host))) -}}
{{- else if eq (len $labels) 1 -}}
{{- $peers = append $peers (dict "podSelector" $pods) -}}
{{- else if or (regexMatch "^[^.]+[.][^.]+[.]svc([.]|$)" .host) (and (not $.public) (eq (len $labels) 2)) -}}
{{- $peer := dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" (index $labels 1))) -}}
{{- if $.service }}{{ $peer = set $peer "podSelector" $pods }}{{ end -}}
{{- $peers = append $peers $peer -}}
{{- else -}}
{{- $peers = concat $peers (include "flotilla-service.outside" $.public | fromYamlArray) -}}
{{- end -}}
{{- end -}}
{{- if and (not $peers) .public }}{{ $peers = include "flotilla-service.outside" true | fromYamlArray }}{{ end -}}
{{- if not $peers }}{{ $peers = list (dict "podSelector" $pods) }}{{ end -}}
{{- uniq $peers | toYaml -}}
{{- end }}

{{/*
Addresses outside the cluster: all but the node's own and its cloud's metadata; for what is public, all but private ones, also
where NAT64 maps them.
*/}}
{{- define "flotilla-service.outside" -}}
{{- if . -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
- ipBlock:
    cidr: ::/0
    except: ["::/96", "64:ff9b::a00:0/104", "64:ff9b::6440:0/106", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112", "64:ff9b::ac10:0/108", "64:ff9b::c0a8:0/112", "64:ff9b:1::/48", "fc00::/7", "fe80::/10"]
{{- else -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [127.0.0.0/8, 169.254.0.0/16]
- ipBlock:
    cidr: ::/0
    except: ["::1/128", "64:ff9b::7f00:0/104", "64:ff9b::a9fe:0/112", "fd00:ec2::254/128", "fe80::/10"]
{{- end -}}
{{- end }}
