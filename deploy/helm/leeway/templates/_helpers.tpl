{{- define "leeway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* The name is always the same: the rules know the replicas by it (job="leeway"). */}}
{{- define "leeway.selector" -}}
app.kubernetes.io/name: leeway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "leeway.labels" -}}
{{ include "leeway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "leeway.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{- printf "%s@%s" .repository .digest -}}
{{- else -}}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leeway.serviceAccount" -}}
{{- default (ternary (include "leeway.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The claim with the state. */}}
{{- define "leeway.stateClaim" -}}
{{- default (printf "%s-state" (include "leeway.fullname" .)) .Values.state.persistentVolumeClaim.claimName -}}
{{- end -}}

{{- define "leeway.scheme" -}}
{{- if dig "http" "tls" "certificate" "" .Values.config -}}HTTPS{{- else -}}HTTP{{- end -}}
{{- end -}}

{{/* The time that a pod gets to stop: the hook, the shutdown of the server, 2 s for cancelled runs, 5 s for a prediction log, 2 s more. */}}
{{- define "leeway.terminationSeconds" -}}
{{- $delay := dig "shutdown" "deregistration_delay_ms" 5000 .Values.config | float64 -}}
{{- $grace := dig "shutdown" "grace_period_ms" 30000 .Values.config | float64 -}}
{{- add 10 (divf (addf $delay $grace) 1000 | ceil | int64) -}}
{{- end -}}
