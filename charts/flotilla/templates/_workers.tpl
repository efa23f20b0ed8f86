{{/* The names of `workers` that are not left out, as a YAML list. */}}
{{- define "flotilla.ownWorkers" -}}
{{- $names := list -}}
{{- $queues := dict -}}
{{- range $name, $own := .Values.workers -}}
{{- if ne (($own | default dict).enabled | toString) "false" -}}
{{- $names = append $names $name -}}
{{- $queue := ((($own | default dict).settings | default dict).FLOTILLA_TASK_QUEUE | default $name) | toString -}}
{{- with get $queues $queue -}}
{{- fail (printf "flotilla: workers.%s and workers.%s have the same task queue %s, and pods of one may lack the other's workflows: leave settings.FLOTILLA_TASK_QUEUE out of one, or make them one entry" . $name $queue) -}}
{{- end -}}
{{- $_ := set $queues $queue $name -}}
{{- end -}}
{{- end -}}
{{- if has "workflow" $names -}}
{{- fail "flotilla: workers.workflow would have the objects of workflow-worker: choose another name" -}}
{{- end -}}
{{- if and $names (not (index .Values "workflow-worker").enabled) -}}
{{- fail "flotilla: workers take what they do not set from workflow-worker, which is not enabled: enable it (replicas: 0 runs none of its pods)" -}}
{{- end -}}
{{- toYaml $names -}}
{{- end }}

{{/*
What charts/workflow-worker would see for one entry of `workers`: the values of the fleet's worker, but for how many there are and
which builds; those of the entry win. It logs in to Redis as the fleet's worker does. Call with root and name.
*/}}
{{- define "flotilla.workerScope" -}}
{{- $root := .root -}}
{{- $fleet := index $root.Values "workflow-worker" -}}
{{- $base := omit (deepCopy $fleet) "image" "versioning" "replicas" "autoscaling" "settings" "nameOverride" "fullnameOverride" -}}
{{- $_ := set $base "image" (dict "tag" "" "digest" "" "pullPolicy" $fleet.image.pullPolicy) -}}
{{- $_ := set $base "versioning" (dict "builds" list) -}}
{{- $_ := set $base "replicas" 1 -}}
{{- $_ := set $base "serviceAccount" (set (deepCopy $fleet.serviceAccount) "name" "") -}}
{{- $_ := set $base "autoscaling" (deepCopy $fleet.autoscaling) -}}
{{- range $scaler := list "hpa" "keda" }}{{ $_ := set (index $base.autoscaling $scaler) "enabled" false }}{{ end -}}
{{- $queue := (($fleet.settings | default dict).FLOTILLA_TASK_QUEUE | default "rag-agent-queue") -}}
{{- $_ := set $base "settings" (set (deepCopy ($fleet.settings | default dict)) "FLOTILLA_TASK_QUEUE" .name) -}}
{{- $_ := set $base.dependencies.redis "key" ($base.dependencies.redis.key | default "workflow-worker") -}}
{{- $own := index $root.Values.workers .name | default dict -}}
{{- $values := include "flotilla.merged" (dict "base" $base "over" $own) | fromYaml -}}
{{- if eq ($values.settings.FLOTILLA_TASK_QUEUE | toString) $queue -}}
{{- fail (printf "flotilla: workers.%s has the task queue %s of workflow-worker, whose pods may lack its workflows: leave settings.FLOTILLA_TASK_QUEUE out (then it is %s), or name another" .name $queue .name) -}}
{{- end -}}
{{- $_ := set $values "global" $root.Values.global -}}
{{- $annotations := dict "flotilla/uses" "postgres,redis,temporal" "flotilla/postgres-connections" "20" "flotilla/postgres-role" "flotilla_worker" "flotilla/scales-by" "temporal" "flotilla/kind" "workflow-worker" -}}
{{- $chart := dict "Name" (printf "%s-worker" .name) "Version" $root.Chart.Version "AppVersion" $root.Chart.AppVersion "Annotations" $annotations -}}
{{- dict "Values" $values "Chart" $chart | toJson -}}
{{- end }}

{{/* The objects of one entry of `workers`, as charts/workflow-worker would render them. Call with root and name. */}}
{{- define "flotilla.worker" -}}
{{- $scope := include "flotilla.workerScope" . | fromJson -}}
{{- include "flotilla-service.all" (merge $scope (dict "Release" .root.Release "Capabilities" .root.Capabilities "Template" .root.Template)) -}}
{{- end }}
