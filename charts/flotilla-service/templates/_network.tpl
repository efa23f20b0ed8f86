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
        {{- toYaml $policy.metricsFrom | nindent 8 }}
      ports:
        - port: metrics
        {{- range $name, $_ := .Values.extraPorts }}
        {{- if hasPrefix "metrics" $name }}
        - port: {{ $name }}
        {{- end }}
        {{- end }}
    {{- if .Values.service }}
    - from:
        {{- toYaml $policy.clientsFrom | nindent 8 }}
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
    {{- range $dependency := splitList "," (index .Chart.Annotations "flotilla/uses") }}
    {{- $rule := index $policy.egress $dependency }}
    {{- if $rule }}
    - to:
        {{- toYaml $rule.to | nindent 8 }}
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
