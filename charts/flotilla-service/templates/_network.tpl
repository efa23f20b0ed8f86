{{/* A setting of the policies: the chart's own, else the fleet's. Call with root and key; the result is YAML under `it`. */}}
{{- define "flotilla-service.networkSetting" -}}
{{- $fleet := (.root.Values.global | default dict).networkPolicy | default dict -}}
{{- dict "it" (index .root.Values.networkPolicy .key | default (index $fleet .key)) | toYaml -}}
{{- end }}

{{/* The release's own namespace, and others by name. */}}
{{- define "flotilla-service.namespacePeers" -}}
- podSelector: {}
{{- range . }}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
{{- end }}
{{- end }}

{{/* Who may reach a port. Call with root, peers (the key of given peers), namespaces (the key of names), usual. */}}
{{- define "flotilla-service.from" -}}
{{- $peers := (include "flotilla-service.networkSetting" (dict "root" .root "key" .peers) | fromYaml).it -}}
{{- $namespaces := (include "flotilla-service.networkSetting" (dict "root" .root "key" .namespaces) | fromYaml).it | default .usual -}}
{{- if $peers }}{{ toYaml $peers }}{{ else }}{{ include "flotilla-service.namespacePeers" $namespaces }}{{ end }}
{{- end }}

{{/* Where a dependency is. A model's endpoint is usually on the internet: then no address of a private network is reached. */}}
{{- define "flotilla-service.to" -}}
{{- $own := (index .root.Values.networkPolicy.egress .dependency).to -}}
{{- $fleet := index (((.root.Values.global | default dict).networkPolicy | default dict).egress | default dict) .dependency -}}
{{- if $own | default $fleet -}}
{{- toYaml ($own | default $fleet) -}}
{{- else if eq .dependency "llm" -}}
- ipBlock:
    cidr: 0.0.0.0/0
    except: [10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 169.254.0.0/16, 172.16.0.0/12, 192.168.0.0/16]
{{- else -}}
- podSelector: {}
{{- end -}}
{{- end }}

{{/*
Default deny. Ingress: metrics for Prometheus, and what the service serves. Egress: DNS and the named dependencies only.
*/}}
{{- define "flotilla-service.networkPolicy" -}}
{{- $policy := .Values.networkPolicy -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "flotilla-service.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    - from:
        {{- include "flotilla-service.from" (dict "root" . "peers" "metricsFrom" "namespaces" "metricsNamespaces" "usual" (list "monitoring")) | nindent 8 }}
      ports:
        - port: metrics
        {{- range $name, $_ := .Values.extraPorts }}
        {{- if hasPrefix "metrics" $name }}
        - port: {{ $name }}
        {{- end }}
        {{- end }}
    {{- if .Values.service }}
    - from:
        {{- include "flotilla-service.from" (dict "root" . "peers" "clientsFrom" "namespaces" "clientNamespaces" "usual" (list "ingress-nginx")) | nindent 8 }}
      ports:
        - port: http
    {{- end }}
    {{- with $policy.extraIngress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  egress:
    - to:
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: kube-system
      ports:
        - port: 53
          protocol: UDP
        - port: 53
          protocol: TCP
    {{- range $dependency := include "flotilla-service.usesList" . | fromYamlArray }}
    {{- $rule := index $policy.egress $dependency }}
    {{- if $rule }}
    - to:
        {{- include "flotilla-service.to" (dict "root" $ "dependency" $dependency) | nindent 8 }}
      ports:
        {{- range $rule.ports }}
        - port: {{ . }}
          protocol: TCP
        {{- end }}
    {{- end }}
    {{- end }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "flotilla-service.serviceObject" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ .Values.service.type }}
  selector:
    {{- include "flotilla-service.selectorLabels" . | nindent 4 }}
  ports:
    - name: http
      port: {{ .Values.service.port }}
      targetPort: http
{{- end }}

{{- define "flotilla-service.ingress" -}}
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.ingress.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with .Values.ingress.className }}
  ingressClassName: {{ . }}
  {{- end }}
  {{- with .Values.ingress.tls }}
  tls:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    {{- range .Values.ingress.hosts }}
    - host: {{ . | quote }}
      http:
        paths:
          - path: /
            pathType: Prefix
            backend:
              service:
                name: {{ include "flotilla-service.fullname" $ }}
                port:
                  name: http
    {{- end }}
{{- end }}
