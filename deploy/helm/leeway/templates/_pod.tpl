{{- define "leeway.env" -}}
# The settings of the image, which would override those of the file; an empty one counts as not set.
- {name: LEEWAY_HTTP__LISTEN, value: ""}
- {name: LEEWAY_ADMIN__LISTEN, value: ""}
- {name: LEEWAY_REPOSITORY__PATH, value: ""}
- {name: LEEWAY_STATE__URL, value: ""}
- {name: LEEWAY_LOG__FORMAT, value: ""}
{{- with .Values.feedbackKey }}
{{- if .secret }}
- name: LEEWAY_FEEDBACK__KEY
  valueFrom:
    secretKeyRef: {name: {{ .secret }}, key: {{ .key }}}
{{- end }}
{{- end }}
{{- with .Values.admin }}
{{- if .tokenSecret }}
- name: LEEWAY_ADMIN__TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .tokenSecret }}, key: {{ .tokenKey }}}
{{- end }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "leeway.volumeMounts" -}}
- {name: config, mountPath: /etc/leeway/leeway.toml, subPath: leeway.toml, readOnly: true}
- {name: state, mountPath: /var/lib/leeway}
- {name: tmp, mountPath: /tmp}
{{- if eq .Values.state.kind "postgres" }}
- {name: state-password, mountPath: /etc/leeway/state, readOnly: true}
{{- end }}
{{- with .Values.models }}
{{- if eq .from "objectStorage" }}
- {name: models, mountPath: /var/cache/leeway}
{{- else if has .from (list "persistentVolumeClaim" "imageVolume") }}
- name: models
  mountPath: /srv/models
  readOnly: true
  {{- with (get . .from).subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "leeway.volumes" -}}
- name: config
  configMap: {name: {{ include "leeway.fullname" . }}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
- name: state
  {{- if eq .Values.state.kind "persistentVolumeClaim" }}
  persistentVolumeClaim: {claimName: {{ include "leeway.stateClaim" . }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.state.sizeLimit }}}
  {{- end }}
{{- if eq .Values.state.kind "postgres" }}
- name: state-password
  secret:
    secretName: {{ .Values.state.postgres.passwordSecret }}
    # Read by the group of the pod (fsGroup).
    defaultMode: 0440
    items:
      - {key: {{ .Values.state.postgres.passwordKey }}, path: password}
{{- end }}
{{- with .Values.models }}
{{- if eq .from "persistentVolumeClaim" }}
- name: models
  persistentVolumeClaim: {claimName: {{ .persistentVolumeClaim.claimName }}, readOnly: true}
{{- else if eq .from "imageVolume" }}
- name: models
  image: {reference: {{ .imageVolume.reference }}, pullPolicy: {{ .imageVolume.pullPolicy }}}
{{- else if eq .from "objectStorage" }}
- name: models
  emptyDir: {sizeLimit: {{ div (mul 5 .objectStorage.cacheMb) 4 }}Mi}
{{- end }}
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}
