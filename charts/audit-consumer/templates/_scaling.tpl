{{- define "audit-consumer.scalingModifiers" -}}
{{- end }}

{{- define "audit-consumer.triggers" -}}
- type: apache-kafka
  name: lag
  metadata:
    bootstrapServers: {{ include "flotilla-service.addressForKeda" (dict "root" . "dependency" "kafka" "key" "bootstrapServers" "hint" "Example: kafka:9092.") | quote }}
    consumerGroup: {{ include "flotilla-service.setting" (dict "root" . "name" "FLOTILLA_AUDIT_GROUP" "default" "audit-consumer") | quote }}
    topic: {{ include "flotilla-service.setting" (dict "root" . "name" "FLOTILLA_KAFKA_SESSION_EVENTS_TOPIC" "default" "flotilla.session-events") | quote }}
    lagThreshold: {{ .Values.autoscaling.keda.lagPerPod | quote }}
    activationLagThreshold: "0"
    # A partition has one reader: more pods than partitions would idle.
    limitToPartitionsWithLag: "true"
    {{- with include "flotilla-service.dependency" (dict "root" . "dependency" "kafka" "key" "saslMechanism") }}
    sasl: {{ dict "PLAIN" "plaintext" "SCRAM-SHA-256" "scram_sha256" "SCRAM-SHA-512" "scram_sha512" | dig . "none" }}
    {{- end }}
    {{- if hasSuffix "SSL" (include "flotilla-service.dependency" (dict "root" . "dependency" "kafka" "key" "securityProtocol")) }}
    tls: enable
    {{- end }}
  {{- with include "flotilla-service.authenticationRef" . }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}
