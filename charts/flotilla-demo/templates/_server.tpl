{{- define "flotilla-demo.labels" -}}
app.kubernetes.io/name: {{ .server }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: demo
app.kubernetes.io/part-of: flotilla
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "flotilla-demo.selector" -}}
app.kubernetes.io/name: {{ .server }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: demo
{{- end }}

{{/* One server: call with root, server (its name), port, and container (args, env, probe as YAML). */}}
{{- define "flotilla-demo.server" -}}
{{- $values := .root.Values -}}
{{- $own := index $values .server -}}
{{- $name := printf "%s-%s" $values.name .server -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ include "flotilla-service.namespace" .root }}
  labels:
    {{- include "flotilla-demo.labels" . | nindent 4 }}
spec:
  replicas: 1
  strategy:
    type: Recreate
  selector:
    matchLabels:
      {{- include "flotilla-demo.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "flotilla-demo.labels" . | nindent 8 }}
      {{- if eq .server "redis" }}
      annotations:
        # It reads its users when it starts.
        flotilla/agents: {{ join "," .root.Agents | quote }}
      {{- end }}
    spec:
      automountServiceAccountToken: false
      # Else Kubernetes' own KAFKA_… variables would be read as settings of the broker.
      enableServiceLinks: false
      securityContext:
        {{- toYaml $values.podSecurityContext | nindent 8 }}
      containers:
        - name: {{ .server }}
          image: {{ $own.image }}
          imagePullPolicy: {{ $values.imagePullPolicy }}
          {{- .container | nindent 10 }}
          ports:
            - name: server
              containerPort: {{ .port }}
          startupProbe:
            tcpSocket:
              port: server
            periodSeconds: 1
            failureThreshold: 180
          readinessProbe:
            tcpSocket:
              port: server
            periodSeconds: 5
          livenessProbe:
            tcpSocket:
              port: server
            periodSeconds: 10
            failureThreshold: 6
          resources:
            {{- toYaml $own.resources | nindent 12 }}
          securityContext:
            {{- toYaml $values.securityContext | nindent 12 }}
          volumeMounts:
            - name: data
              mountPath: /data
            - name: tmp
              mountPath: /tmp
            {{- if eq .server "redis" }}
            - name: users
              mountPath: /etc/redis
              readOnly: true
            {{- end }}
      volumes:
        - name: data
          {{- if $values.persistence.enabled }}
          persistentVolumeClaim:
            claimName: {{ $name }}
          {{- else }}
          emptyDir: {}
          {{- end }}
        - name: tmp
          emptyDir: {}
        {{- if eq .server "redis" }}
        - name: users
          secret:
            secretName: {{ $name }}
            defaultMode: 0440
            items:
              - {key: users.acl, path: users.acl}
        {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ include "flotilla-service.namespace" .root }}
  labels:
    {{- include "flotilla-demo.labels" . | nindent 4 }}
spec:
  selector:
    {{- include "flotilla-demo.selector" . | nindent 4 }}
  ports:
    - name: server
      port: {{ .port }}
      targetPort: server
{{- if $values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  namespace: {{ include "flotilla-service.namespace" .root }}
  labels:
    {{- include "flotilla-demo.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "flotilla-demo.selector" . | nindent 6 }}
  policyTypes: [Ingress]
  ingress:
    - from:
        - podSelector: {}
        {{- range $values.networkPolicy.namespaces }}
        - namespaceSelector:
            matchLabels:
              kubernetes.io/metadata.name: {{ . }}
        {{- end }}
      ports:
        - port: server
{{- end }}
{{- if $values.persistence.enabled }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ $name }}
  namespace: {{ include "flotilla-service.namespace" .root }}
  labels:
    {{- include "flotilla-demo.labels" . | nindent 4 }}
spec:
  accessModes: [ReadWriteOnce]
  {{- with $values.persistence.storageClassName }}
  storageClassName: {{ . }}
  {{- end }}
  resources:
    requests:
      storage: {{ $values.persistence.size }}
{{- end }}
{{- end }}

{{/* What a Secret holds already, else what is new: passwords must survive upgrades. Call with root, name, new. */}}
{{- define "flotilla-demo.kept" -}}
{{- $found := lookup "v1" "Secret" (include "flotilla-service.namespace" .root) .name | default dict -}}
{{- $data := dict -}}
{{- range $key, $value := .new }}
{{- $_ := set $data $key (index ($found.data | default dict) $key | default ($value | b64enc)) -}}
{{- end }}
{{- toYaml $data -}}
{{- end }}

{{- define "flotilla-demo.secret" -}}
apiVersion: v1
kind: Secret
metadata:
  name: {{ .name }}
  namespace: {{ include "flotilla-service.namespace" .root }}
  labels:
    {{- include "flotilla-demo.labels" (dict "root" .root "server" "secrets") | nindent 4 }}
type: Opaque
data:
  {{- .data | nindent 2 }}
{{- end }}
