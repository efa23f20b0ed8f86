{{- define "flotilla.check" -}}
{{- if and (index .Values "flotilla-demo").enabled (eq .Values.install.mode "hook") -}}
{{- fail "flotilla: install.mode is hook and flotilla-demo is enabled, so the hook would wait for a database that comes after it: set install.mode=job" -}}
{{- end -}}
{{- include "flotilla.checkConnections" . -}}
{{- end }}

{{/* Every service's connections to PostgreSQL at its largest, and those of the install Job and of KEDA's scaler. */}}
{{- define "flotilla.connections" -}}
{{- $each := dict "install" (.Values.install.enabled | ternary 4 0) "backup" (.Values.backup.enabled | ternary 1 0) -}}
{{- range $name, $scope := .Subcharts -}}
{{- if index ($scope.Chart.Annotations | default dict) "flotilla/postgres-connections" -}}
{{- $_ := set $each $name (include "flotilla-service.connections" $scope | int) -}}
{{- if and (eq $name "outbox-relay") $scope.Values.autoscaling.keda.enabled }}{{ $_ := set $each "KEDA" 1 }}{{ end -}}
{{- end -}}
{{- end -}}
{{- range $name := include "flotilla.ownAgents" . | fromYamlArray -}}
{{- $_ := set $each (printf "%s-agent" $name) (include "flotilla-service.connections" (merge (include "flotilla.agentScope" (dict "root" $ "name" $name) | fromJson) (dict "Release" $.Release)) | int) -}}
{{- end -}}
{{- range $name := include "flotilla.ownWorkers" . | fromYamlArray -}}
{{- $_ := set $each (printf "%s-worker" $name) (include "flotilla-service.connections" (merge (include "flotilla.workerScope" (dict "root" $ "name" $name) | fromJson) (dict "Release" $.Release)) | int) -}}
{{- end -}}
{{- toYaml $each -}}
{{- end }}

{{- define "flotilla.checkConnections" -}}
{{- $most := int .Values.global.dependencies.postgres.maxConnections -}}
{{- if $most -}}
{{- $sum := 0 -}}
{{- $list := list -}}
{{- range $name, $count := include "flotilla.connections" . | fromYaml -}}
{{- $sum = add $sum (int $count) -}}
{{- $list = append $list (printf "%s %d" $name (int $count)) -}}
{{- end -}}
{{- if gt $sum $most -}}
{{- fail (printf "flotilla: at their largest the services open %d connections to PostgreSQL (%s), and global.dependencies.postgres.maxConnections is %d: lower the autoscalers' maxReplicas or settings.FLOTILLA_POSTGRES_POOL_MAX of services, or raise max_connections at the server and this value" $sum (join ", " $list) $most) -}}
{{- end -}}
{{- end -}}
{{- end }}
