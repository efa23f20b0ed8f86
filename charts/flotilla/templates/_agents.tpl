{{/* Two trees of values as YAML; the second one wins, also where it says false or 0. Call with base and over. */}}
{{- define "flotilla.merged" -}}
{{- $result := deepCopy .base -}}
{{- range $key, $value := .over -}}
{{- if and (kindIs "map" $value) (kindIs "map" (index $result $key)) -}}
{{- $_ := set $result $key (include "flotilla.merged" (dict "base" (index $result $key) "over" $value) | fromYaml) -}}
{{- else -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- end -}}
{{- toYaml $result -}}
{{- end }}

{{/* The names of `agents` that are not left out, as a YAML list. */}}
{{- define "flotilla.ownAgents" -}}
{{- $names := list -}}
{{- range $name, $own := .Values.agents -}}
{{- if ne (($own | default dict).enabled | toString) "false" }}{{ $names = append $names $name }}{{ end -}}
{{- end -}}
{{- range $name := $names -}}
{{- $chart := printf "%s-agent" $name -}}
{{- if (index $.Values $chart | default dict).enabled -}}
{{- fail (printf "flotilla: agents.%s would have the objects of %s: choose another name, or set %s.enabled=false" $name $chart $chart) -}}
{{- end -}}
{{- end -}}
{{- toYaml $names -}}
{{- end }}

{{/* What charts/agent would see for one entry of `agents`: values and chart. Call with root and name. */}}
{{- define "flotilla.agentScope" -}}
{{- $root := .root -}}
{{- $own := index $root.Values.agents .name | default dict -}}
{{- $values := include "flotilla.merged" (dict "base" $root.Values.agentDefaults "over" $own) | fromYaml -}}
{{- $_ := set $values "global" $root.Values.global -}}
{{- $_ := set $values.agent "name" .name -}}
{{- $annotations := dict "flotilla/uses" "postgres,redis" "flotilla/postgres-connections" "10" "flotilla/scales-by" "redis" -}}
{{- $chart := dict "Name" (printf "%s-agent" .name) "Version" $root.Chart.Version "AppVersion" $root.Chart.AppVersion "Annotations" $annotations -}}
{{- dict "Values" $values "Chart" $chart | toJson -}}
{{- end }}

{{/* The objects of one entry of `agents`, as charts/agent would render them. Call with root and name. */}}
{{- define "flotilla.agent" -}}
{{- $scope := include "flotilla.agentScope" . | fromJson -}}
{{- include "flotilla-service.all" (merge $scope (dict "Release" .root.Release "Capabilities" .root.Capabilities "Template" .root.Template)) -}}
{{- end }}
