{{/* Values that fit the schema one by one, but not together. */}}
{{- define "leeway.checks" -}}
{{- $values := .Values -}}
{{- $scales := ne $values.autoscaling.kind "none" -}}
{{- if and (eq $values.models.from "persistentVolumeClaim") (not $values.models.persistentVolumeClaim.claimName) -}}
{{- fail "models.from is persistentVolumeClaim: set models.persistentVolumeClaim.claimName" -}}
{{- end -}}
{{- if and (eq $values.models.from "imageVolume") (not $values.models.imageVolume.reference) -}}
{{- fail "models.from is imageVolume: set models.imageVolume.reference" -}}
{{- end -}}
{{- if and (eq $values.models.from "objectStorage") (not $values.models.objectStorage.url) -}}
{{- fail "models.from is objectStorage: set models.objectStorage.url, as in s3://bucket/models" -}}
{{- end -}}
{{- if and (eq $values.state.kind "persistentVolumeClaim") (or $scales (gt (int $values.replicas) 1)) -}}
{{- fail "state.kind is persistentVolumeClaim, which one pod can use: set replicas to 1 and autoscaling.kind to none, or state.kind to postgres" -}}
{{- end -}}
{{- if and (eq $values.state.kind "postgres") (not (and $values.state.postgres.host $values.state.postgres.passwordSecret)) -}}
{{- fail "state.kind is postgres: set state.postgres.host and state.postgres.passwordSecret" -}}
{{- end -}}
{{- if and $values.admin.exposed (not $values.admin.tokenSecret) -}}
{{- fail "admin.exposed needs admin.tokenSecret" -}}
{{- end -}}
{{- if and (eq $values.autoscaling.kind "keda") (not $values.autoscaling.keda.serverAddress) -}}
{{- fail "autoscaling.kind is keda: set autoscaling.keda.serverAddress to the URL of Prometheus" -}}
{{- end -}}
{{- with $values.autoscaling -}}
{{- if and $scales (not (or .queueDepth .shedPercent .cpuPercent .requestsPerSecond)) -}}
{{- fail "autoscaling needs one of queueDepth, shedPercent, cpuPercent and requestsPerSecond above 0" -}}
{{- end -}}
{{- if and $scales (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is above autoscaling.maxReplicas" -}}
{{- end -}}
{{- end -}}
{{- end -}}
