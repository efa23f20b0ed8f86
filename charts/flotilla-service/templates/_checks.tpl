{{/* Keys that were renamed, old to new. The schema lets them in so that the render can name the new one. */}}
{{- define "flotilla-service.renamedKeys" -}}
replicaCount: replicas
serviceMonitor: metrics.podMonitor
env: settings
resourcesPreset: resources
terminationGracePeriodSeconds: drainSeconds
{{- end }}

{{- define "flotilla-service.checkRenamed" -}}
{{- range $old, $new := include "flotilla-service.renamedKeys" . | fromYaml }}
{{- if hasKey $.Values $old }}
{{- fail (printf "%s: the value %s is now called %s: rename it" $.Chart.Name $old $new) -}}
{{- end }}
{{- end }}
{{- end }}

{{- define "flotilla-service.checkAutoscaling" -}}
{{- $hpa := .Values.autoscaling.hpa -}}
{{- $keda := .Values.autoscaling.keda -}}
{{- if and $hpa.enabled $keda.enabled -}}
{{- fail (printf "%s: autoscaling.hpa and autoscaling.keda are both enabled and would fight over the replicas: turn one off" .Chart.Name) -}}
{{- end -}}
{{- if and $hpa.enabled (lt (int $hpa.minReplicas) 1) -}}
{{- fail (printf "%s: autoscaling.hpa.minReplicas is 0, and an HPA can't wake a service up again: set 1, or use autoscaling.keda" .Chart.Name) -}}
{{- end -}}
{{- range $name, $scaler := dict "hpa" $hpa "keda" $keda -}}
{{- if gt (int $scaler.minReplicas) (int $scaler.maxReplicas) -}}
{{- fail (printf "%s: autoscaling.%s.minReplicas is above maxReplicas: raise one or lower the other" $.Chart.Name $name) -}}
{{- end -}}
{{- end -}}
{{- if and (.Values.versioning | default dict).builds (or $hpa.enabled $keda.enabled) -}}
{{- fail (printf "%s: versioning.builds gives each build its own Deployment, and an autoscaler knows only one: turn autoscaling.hpa and autoscaling.keda off, and set the builds' replicas" .Chart.Name) -}}
{{- end -}}
{{- end }}
