{{- define "audit-consumer.scalingModifiers" -}}
{{- end }}

{{- define "audit-consumer.triggers" -}}
- type: apache-kafka
  name: lag
  metadata:
    bootstrapServers: {{ include "flotilla-service.required" (dict "root" . "dependency" "kafka" "key" "bootstrapServers" "mend" "Example: kafka:9092.") | quote }}
    consumerGroup: audit-consumer
    topic: flotilla.session-events
    lagThreshold: {{ .Values.autoscaling.keda.lagPerPod | quote }}
    activationLagThreshold: "0"
    # A partition has one reader: more pods than partitions would idle.
    limitToPartitionsWithLag: "true"
{{- end }}
