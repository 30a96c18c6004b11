{{- define "portcullis.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "portcullis.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "portcullis.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "portcullis.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.account" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "portcullis.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "portcullis.selector" -}}
app.kubernetes.io/name: {{ include "portcullis.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "portcullis.labels" -}}
{{ include "portcullis.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "portcullis.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "portcullis.url" -}}
{{- if .Values.publicUrl -}}
{{ .Values.publicUrl }}
{{- else if and .Values.ingress.enabled .Values.ingress.host -}}
https://{{ .Values.ingress.host }}
{{- else if and .Values.gatewayApi.enabled .Values.gatewayApi.hostname -}}
https://{{ .Values.gatewayApi.hostname }}
{{- else -}}
{{ ternary "https" "http" (hasKey .Values.settings "tls") }}://{{ include "portcullis.fullname" . }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
{{- end -}}
{{- end -}}

{{/* The namespaces in which servers run, as JSON: {"all": [...]}. */}}
{{- define "portcullis.serverNamespaces" -}}
{{- $all := list -}}
{{- if .Values.kubernetes.servers.enabled -}}
{{- $all = append (values .Values.kubernetes.servers.tenants) (default .Release.Namespace .Values.kubernetes.servers.namespace) -}}
{{- end -}}
{{- dict "all" ($all | sortAlpha | uniq) | toJson -}}
{{- end -}}

{{/* Whether it asks the cluster for anything: "true" or nothing. Where it does not, it gets no token of its account. */}}
{{- define "portcullis.asks" -}}
{{- if or .Values.kubernetes.resources .Values.kubernetes.secretNames .Values.kubernetes.secrets .Values.kubernetes.servers.enabled -}}
true
{{- end -}}
{{- end -}}
