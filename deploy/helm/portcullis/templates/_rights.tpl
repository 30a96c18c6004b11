{{/* A Role and its binding to the gateway's account: (dict "at" $ "name" .. "namespace" .. "rules" "YAML"). */}}
{{- define "portcullis.role" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- include "portcullis.labels" .at | nindent 4 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .namespace }}
  labels: {{- include "portcullis.labels" .at | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "portcullis.account" .at }}, namespace: {{ .at.Release.Namespace }}}
{{- end }}

{{/* The same for the whole cluster. */}}
{{- define "portcullis.clusterRole" }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels: {{- include "portcullis.labels" .at | nindent 4 }}
rules: {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels: {{- include "portcullis.labels" .at | nindent 4 }}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ include "portcullis.account" .at }}, namespace: {{ .at.Release.Namespace }}}
{{- end }}

{{/* Custom resources: read, and told what became of them. */}}
{{- define "portcullis.rules.resources" -}}
- {apiGroups: [portcullis.dev], resources: ["*"], verbs: [list, watch]}
- {apiGroups: [portcullis.dev], resources: ["*/status"], verbs: [patch]}
{{- end -}}

{{/* Whose connections a namespace may make is asked of the cluster. */}}
{{- define "portcullis.rules.asking" -}}
- {apiGroups: [authorization.k8s.io], resources: [subjectaccessreviews], verbs: [create]}
{{- end -}}
