{{- define "flotilla.installLabels" -}}
{{ include "flotilla.installSelector" . }}
app.kubernetes.io/part-of: flotilla
{{- include "flotilla-service.commonLabels" . }}
{{- end }}

{{- define "flotilla.installSelector" -}}
app.kubernetes.io/name: install
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "flotilla.installName" -}}
{{- printf "%s-install" (.Release.Name | trunc 40 | trimSuffix "-") -}}
{{- end }}

{{/* What the library's templates need to see of the Job: it talks to the servers as their owner. */}}
{{- define "flotilla.installScope" -}}
Values:
  global: {{ .Values.global | toJson }}
  dependencies: {{ .Values.install.dependencies | toJson }}
  networkPolicy: {{ .Values.agentDefaults.networkPolicy | toJson }}
Chart:
  Name: install
  Annotations: {flotilla/uses: "postgres,redis,kafka", flotilla/postgres-role: owner}
{{- end }}

{{/* Its image: the gateway's, whatever that is set to. */}}
{{- define "flotilla.installImage" -}}
{{- $gateway := mergeOverwrite (dict "image" (dict "repository" "" "tag" "" "digest" "")) (.Values.gateway | default dict) (dict "global" .Values.global) -}}
{{- .Values.install.image | default (include "flotilla-service.image" (dict "Values" $gateway "Chart" (dict "Name" "gateway" "AppVersion" .Chart.AppVersion))) -}}
{{- end }}

{{- define "flotilla.installEnvironment" -}}
- name: FLOTILLA_INSTALL_TIMEOUT_S
  value: {{ .Values.install.timeoutSeconds | quote }}
- name: FLOTILLA_INSTALL_AGENTS
  value: {{ join "," (concat .Values.install.agents (include "flotilla.ownAgents" . | fromYamlArray)) | quote }}
{{- include "flotilla-service.dependencyEnv" (include "flotilla.installScope" . | fromYaml) }}
{{- if .Values.install.rolePasswordsSecret }}
- name: FLOTILLA_ROLE_PASSWORDS_DIR
  value: /etc/flotilla/role-passwords
{{- end }}
{{- with include "flotilla-service.named" (dict "root" . "text" .Values.install.adminKeySecret) }}
{{ include "flotilla-service.secretEnv" (dict "name" "FLOTILLA_ADMIN_KEY" "secret" . "key" "admin-key") }}
{{- end }}
{{- with .Values.install.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/*
The Job's specification, of which its name is made: a Job can't be changed, so what differs has to be another Job. A revision
number would not do: `helm template`, as GitOps uses it, always renders the first.
*/}}
{{- define "flotilla.installSpec" -}}
{{- $install := .Values.install -}}
{{- $scope := include "flotilla.installScope" . | fromYaml -}}
backoffLimit: 10
{{- with $install.keepSeconds }}
ttlSecondsAfterFinished: {{ int . }}
{{- end }}
template:
  metadata:
    labels:
      {{- include "flotilla.installLabels" . | nindent 6 }}
      {{- with $install.podLabels }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    {{- with $install.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    restartPolicy: OnFailure
    {{- with $install.serviceAccountName }}
    serviceAccountName: {{ . }}
    {{- end }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    securityContext:
      {{- toYaml $install.podSecurityContext | nindent 6 }}
    {{- with .Values.global.imagePullSecrets }}
    imagePullSecrets:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with include "flotilla-service.placement" (dict "own" $install "root" .) }}
    {{- . | nindent 4 }}
    {{- end }}
    containers:
      - name: install
        image: {{ include "flotilla.installImage" . }}
        imagePullPolicy: {{ $install.pullPolicy }}
        command: [python, -m, flotilla.install]
        env:
          {{- include "flotilla.installEnvironment" . | nindent 10 }}
        terminationMessagePolicy: FallbackToLogsOnError
        resources:
          {{- toYaml $install.resources | nindent 10 }}
        securityContext:
          {{- toYaml $install.securityContext | nindent 10 }}
        volumeMounts:
          - name: tmp
            mountPath: /tmp
          {{- if $install.rolePasswordsSecret }}
          - name: role-passwords
            mountPath: /etc/flotilla/role-passwords
            readOnly: true
          {{- end }}
          {{- with include "flotilla-service.caMounts" $scope }}
          {{- . | nindent 10 }}
          {{- end }}
          {{- with $install.extraVolumeMounts }}
          {{- toYaml . | nindent 10 }}
          {{- end }}
    volumes:
      - name: tmp
        emptyDir:
          sizeLimit: 64Mi
      {{- with include "flotilla-service.named" (dict "root" . "text" $install.rolePasswordsSecret) }}
      - name: role-passwords
        secret:
          secretName: {{ . }}
      {{- end }}
      {{- with include "flotilla-service.caVolumes" $scope }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with $install.extraVolumes }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end }}

{{- define "flotilla.installJobName" -}}
{{- printf "%s-%s" (include "flotilla.installName" .) (include "flotilla.installSpec" . | sha256sum | trunc 8) -}}
{{- end }}
