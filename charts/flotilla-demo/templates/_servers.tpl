{{- define "flotilla-demo.postgres" -}}
env:
  - name: POSTGRES_DB
    value: flotilla
  - name: POSTGRES_PASSWORD
    valueFrom:
      secretKeyRef:
        name: {{ .Values.name }}-roles
        key: owner
  - name: PGDATA
    value: /data/postgres
args: [postgres, -c, max_connections=300, -c, unix_socket_directories=/tmp]
{{- end }}
{{- define "flotilla-demo.redis" -}}
args: [redis-server, --aclfile, /etc/redis/users.acl, --dir, /data, --appendonly, "yes", --maxmemory-policy, noeviction]
{{- end }}
{{- define "flotilla-demo.kafka" -}}
env:
  - name: KAFKA_HEAP_OPTS
    value: {{ .Values.kafka.heap | quote }}
  - name: CLUSTER_ID
    value: ZmxvdGlsbGEtZGVtby1kZQ
  - name: KAFKA_NODE_ID
    value: "1"
  - name: KAFKA_PROCESS_ROLES
    value: broker,controller
  - name: KAFKA_LISTENERS
    value: PLAINTEXT://:9092,CONTROLLER://:9093
  - name: KAFKA_ADVERTISED_LISTENERS
    value: PLAINTEXT://{{ .Values.name }}-kafka.{{ include "flotilla-service.namespace" . }}.svc:9092
  - name: KAFKA_LISTENER_SECURITY_PROTOCOL_MAP
    value: PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
  - name: KAFKA_CONTROLLER_LISTENER_NAMES
    value: CONTROLLER
  - name: KAFKA_CONTROLLER_QUORUM_VOTERS
    value: 1@localhost:9093
  - name: KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR
    value: "1"
  - name: KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR
    value: "1"
  - name: KAFKA_TRANSACTION_STATE_LOG_MIN_ISR
    value: "1"
  - name: KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS
    value: "0"
  - name: KAFKA_AUTO_CREATE_TOPICS_ENABLE
    value: "false"
  - name: KAFKA_LOG_DIRS
    value: /data/kafka
{{- end }}
{{- define "flotilla-demo.temporal" -}}
env:
  - name: HOME
    value: /data
  # The user's number has no name in the image, and Temporal asks for one.
  - name: USER
    value: temporal
args:
  - server
  - start-dev
  - --ip
  - 0.0.0.0
  - --db-filename
  - /data/temporal.db
  - --sqlite-pragma
  - journal_mode=wal
  - --sqlite-pragma
  - synchronous=1
  {{- range list "history.transferProcessorMaxPollRPS" "history.timerProcessorMaxPollRPS" "history.visibilityProcessorMaxPollRPS" }}
  - --dynamic-config-value
  - {{ . }}=2000
  {{- end }}
{{- end }}
{{- define "flotilla-demo.servers" }}
{{- range $server, $port := dict "postgres" 5432 "redis" 6379 "kafka" 9092 "temporal" 7233 }}
---
{{ include "flotilla-demo.server" (dict "root" $ "server" $server "port" $port "container" (include (printf "flotilla-demo.%s" $server) $)) }}
{{- end }}
{{- end }}
