{{/* serve.yaml: what is said under `settings`, and what follows from the other values. */}}
{{- define "portcullis.settings" -}}
{{- $host := printf "%s.%s" (include "portcullis.fullname" .) .Release.Namespace -}}
{{- $hosts := concat (list (include "portcullis.fullname" .) $host (printf "%s.svc" $host) (printf "%s.svc.cluster.local" $host)) (default list .Values.settings.allowedHosts) -}}
{{- $made := dict
  "listen" "0.0.0.0:7777"
  "publicUrl" (include "portcullis.url" .)
  "dataDir" "/var/lib/portcullis/data"
  "allowedHosts" $hosts
  "sealingKey" (dict "file" "/etc/portcullis/sealing/sealing.key")
  "drain" (printf "%ds" (int .Values.drainSeconds))
  "drainDelay" (printf "%ds" (int .Values.drainDelaySeconds))
-}}
{{- if .Values.resourceFiles -}}
{{- $_ := set $made "resources" (list "/etc/portcullis/resources") -}}
{{- end -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $made "metricsListen" (printf "0.0.0.0:%d" (int .Values.metrics.port)) -}}
{{- $_ := set $made "metricsFrom" .Values.metrics.clients -}}
{{- end -}}
{{- if .Values.store.url -}}
{{- $store := dict "url" .Values.store.url "staleFor" .Values.store.staleFor -}}
{{- if .Values.store.passwordSecret -}}
{{- $_ := set $store "password" (dict "file" "/etc/portcullis/store/password") -}}
{{- end -}}
{{- if .Values.store.certificatesSecret -}}
{{- $_ := set $store "certificates" "/etc/portcullis/store-ca/ca.crt" -}}
{{- end -}}
{{- $_ := set $made "store" $store -}}
{{- end -}}
{{- if include "portcullis.asks" . -}}
{{- $cluster := dict "namespace" .Release.Namespace -}}
{{- if .Values.kubernetes.resources -}}
{{- $_ := set $cluster "resources" .Values.kubernetes.resources -}}
{{- end -}}
{{- if .Values.kubernetes.secrets -}}
{{- $_ := set $cluster "secrets" .Values.kubernetes.secrets -}}
{{- end -}}
{{- if .Values.kubernetes.servers.enabled -}}
{{- $servers := .Values.kubernetes.servers -}}
{{- $callers := dict "labels" (include "portcullis.selector" . | fromYaml) -}}
{{- if $servers.networks -}}
{{- $_ := set $callers "networks" $servers.networks -}}
{{- end -}}
{{- $_ := set $cluster "servers" (dict "namespace" (default .Release.Namespace $servers.namespace) "callers" $callers) -}}
{{- if $servers.bridge.image -}}
{{- $bridge := dict "image" $servers.bridge.image -}}
{{- if $servers.bridge.pullSecrets -}}
{{- $_ := set $bridge "imagePullSecrets" $servers.bridge.pullSecrets -}}
{{- end -}}
{{- $_ := set $cluster.servers "bridge" $bridge -}}
{{- end -}}
{{- if $servers.registries -}}
{{- $_ := set $cluster.servers "registries" $servers.registries -}}
{{- end -}}
{{- if $servers.tenants -}}
{{- $_ := set $cluster.servers "tenants" $servers.tenants -}}
{{- end -}}
{{- end -}}
{{- $_ := set $made "kubernetes" $cluster -}}
{{- end -}}
{{- $log := dict "log" (dict "format" "json") -}}
{{- mustMergeOverwrite $log (deepCopy .Values.settings) $made | toYaml -}}
{{- end -}}
