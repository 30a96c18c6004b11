{{/* What makes no sense is refused in a sentence, before anything is installed. */}}
{{- define "portcullis.refusals" -}}
{{- $several := or .Values.autoscaling.enabled (gt (int .Values.replicas) 1) -}}
{{- if and $several (not .Values.store.url) -}}
{{- fail "several replicas need a PostgreSQL that they share: set store.url (docs/guides/replicas.md), or replicas to 1 and autoscaling.enabled to false" -}}
{{- end -}}
{{- if not .Values.sealingKey.existingSecret -}}
{{- fail (printf "sealingKey.existingSecret: name a Secret with the key that seals secrets; make one by: kubectl create secret generic portcullis-sealing-key -n %s --from-literal=sealing.key=\"$(openssl rand -base64 32)\"" .Release.Namespace) -}}
{{- end -}}
{{- if and (not .Values.store.url) (not .Values.persistence.enabled) -}}
{{- fail "without a volume all state would go with the pod: set store.url, or persistence.enabled to true" -}}
{{- end -}}
{{- range $name := list "listen" "metricsListen" "metricsFrom" "dataDir" "socket" "store" "sealingKey" "publicUrl" "kubernetes" "resources" "drain" "drainDelay" -}}
{{- if hasKey $.Values.settings $name -}}
{{- fail (printf "settings.%s: the chart writes this one itself; README.md of the chart says by which value" $name) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: name the host that clients use" -}}
{{- end -}}
{{- if and .Values.gatewayApi.enabled (not .Values.gatewayApi.parentRefs) -}}
{{- fail "gatewayApi.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail "autoscaling.minReplicas: is more than maxReplicas" -}}
{{- end -}}
{{- if and .Values.kubernetes.servers.enabled .Values.kubernetes.servers.createNamespace (eq .Values.kubernetes.servers.namespace .Release.Namespace) -}}
{{- fail "kubernetes.servers.namespace: is the release's own. Whoever may make pods there could read the values of every connection: name another one, or set createNamespace to false" -}}
{{- end -}}
{{- end -}}
