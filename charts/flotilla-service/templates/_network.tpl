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

{{/*
Default deny. Ingress: metrics for Prometheus, and what the service serves. Egress: DNS, and what the service is set to call.
*/}}
{{- define "flotilla-service.networkPolicy" -}}
{{- $policy := .Values.networkPolicy -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
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
    {{- include "flotilla-service.egress" (dict "root" . "uses" (include "flotilla-service.usesList" . | fromYamlArray) "environment" (include "flotilla-service.environment" . | fromYamlArray)) | nindent 4 }}
    {{- with $policy.extraEgress }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

{{- define "flotilla-service.serviceObject" -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  {{- with include "flotilla-service.ipFamilies" . }}
  {{- . | nindent 2 }}
  {{- end }}
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
  namespace: {{ include "flotilla-service.namespace" . }}
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

{{- define "flotilla-service.httpRoute" -}}
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: {{ include "flotilla-service.fullname" . }}
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
  {{- with .Values.httpRoute.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  parentRefs:
    {{- toYaml (required (printf "%s: httpRoute is enabled without a Gateway: set httpRoute.parentRefs" .Chart.Name) .Values.httpRoute.parentRefs) | nindent 4 }}
  {{- with .Values.httpRoute.hostnames }}
  hostnames:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  rules:
    - backendRefs:
        - name: {{ include "flotilla-service.fullname" . }}
          port: {{ .Values.service.port }}
      {{- with .Values.httpRoute.filters }}
      filters:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with .Values.httpRoute.timeouts }}
      timeouts:
        {{- toYaml . | nindent 8 }}
      {{- end }}
{{- end }}

{{- define "flotilla-service.ipFamilies" -}}
{{- $fleet := .Values.global | default dict -}}
{{- with .Values.ipFamilyPolicy | default $fleet.ipFamilyPolicy }}
ipFamilyPolicy: {{ . }}
{{- end }}
{{- with .Values.ipFamilies | default $fleet.ipFamilies }}
ipFamilies:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The pod of `helm test` asks the service's pods, and nobody asks it. */}}
{{- define "flotilla-service.testPolicy" -}}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "flotilla-service.fullname" . }}-test
  namespace: {{ include "flotilla-service.namespace" . }}
  labels:
    {{- include "flotilla-service.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "flotilla-service.testLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  egress:
    {{- include "flotilla-service.dnsRule" . | nindent 4 }}
    - to:
        - podSelector:
            matchLabels:
              {{- include "flotilla-service.selectorLabels" . | nindent 14 }}
      ports:
        - {port: metrics, protocol: TCP}
{{- end }}
