{{/* The pod of either kind. */}}
{{- define "portcullis.pod" -}}
metadata:
  labels:
    {{- include "portcullis.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    # Settings are read once, at the start. Files of resources are watched.
    portcullis.dev/settings: {{ include "portcullis.settings" . | sha256sum | trunc 16 | quote }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "portcullis.account" . }}
  automountServiceAccountToken: {{ ternary true false (eq (include "portcullis.asks" .) "true") }}
  enableServiceLinks: false
  # Longer than the gateway takes at most.
  terminationGracePeriodSeconds: {{ add .Values.drainDelaySeconds .Values.drainSeconds 15 }}
  {{- with .Values.image.pullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile: {type: RuntimeDefault}
  containers:
    - name: portcullis
      image: {{ include "portcullis.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/portcullis/serve.yaml]
      env:
        # Where commands in the pod find the admin socket.
        - {name: PORTCULLIS_HOME, value: /var/lib/portcullis/data}
        {{- with .Values.extraEnv }}{{ toYaml . | nindent 8 }}{{ end }}
      ports:
        - {name: http, containerPort: 7777}
        {{- if .Values.metrics.enabled }}
        - {name: metrics, containerPort: {{ .Values.metrics.port }}}
        {{- end }}
      # It listens once plugins are compiled, which takes long on a small machine.
      startupProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (hasKey .Values.settings "tls") }}}
        periodSeconds: 2
        failureThreshold: 150
      livenessProbe:
        httpGet: {path: /healthz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (hasKey .Values.settings "tls") }}}
        periodSeconds: 10
        timeoutSeconds: 5
      readinessProbe:
        httpGet: {path: /readyz, port: http, scheme: {{ ternary "HTTPS" "HTTP" (hasKey .Values.settings "tls") }}}
        periodSeconds: 2
        timeoutSeconds: 5
        failureThreshold: 2
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: settings, mountPath: /etc/portcullis/serve.yaml, subPath: serve.yaml, readOnly: true}
        - {name: sealing-key, mountPath: /etc/portcullis/sealing, readOnly: true}
        - {name: data, mountPath: /var/lib/portcullis}
        - {name: tmp, mountPath: /tmp}
        {{- if .Values.resourceFiles }}
        - {name: resource-files, mountPath: /etc/portcullis/resources, readOnly: true}
        {{- end }}
        {{- if .Values.store.passwordSecret }}
        - {name: store-password, mountPath: /etc/portcullis/store, readOnly: true}
        {{- end }}
        {{- if .Values.store.certificatesSecret }}
        - {name: store-certificates, mountPath: /etc/portcullis/store-ca, readOnly: true}
        {{- end }}
        {{- with .Values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    - name: settings
      configMap: {name: {{ include "portcullis.fullname" . }}}
    # For the group of the process and nobody else: a key that everybody can read is refused.
    - name: sealing-key
      secret:
        secretName: {{ .Values.sealingKey.existingSecret }}
        defaultMode: 288 # 0440, in the one way that every reader of YAML takes
        items: [{key: {{ .Values.sealingKey.key }}, path: sealing.key}]
    - name: tmp
      emptyDir: {sizeLimit: 256Mi}
    {{- if not .Values.persistence.enabled }}
    - name: data
      emptyDir: {sizeLimit: {{ .Values.persistence.ephemeralSize }}}
    {{- end }}
    {{- if .Values.resourceFiles }}
    - name: resource-files
      configMap: {name: {{ include "portcullis.fullname" . }}-resources}
    {{- end }}
    {{- if .Values.store.passwordSecret }}
    - name: store-password
      secret:
        secretName: {{ .Values.store.passwordSecret }}
        defaultMode: 288 # 0440, in the one way that every reader of YAML takes
        items: [{key: {{ .Values.store.passwordKey }}, path: password}]
    {{- end }}
    {{- if .Values.store.certificatesSecret }}
    - name: store-certificates
      secret:
        secretName: {{ .Values.store.certificatesSecret }}
        defaultMode: 288 # 0440, in the one way that every reader of YAML takes
        items: [{key: {{ .Values.store.certificatesKey }}, path: ca.crt}]
    {{- end }}
    {{- with .Values.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
  {{- with .Values.nodeSelector }}
  nodeSelector: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity: {{- toYaml . | nindent 4 }}
  {{- end }}
  topologySpreadConstraints:
    {{- if .Values.topologySpreadConstraints }}
    {{- toYaml .Values.topologySpreadConstraints | nindent 4 }}
    {{- else }}
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels: {{- include "portcullis.selector" . | nindent 10 }}
    {{- end }}
{{- end -}}
