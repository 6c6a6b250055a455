{{/* leeway.toml. Helm's own toToml writes whole numbers as 5000.0, which are not whole numbers for TOML. */}}
{{- define "leeway.toml" -}}
{{- $config := include "leeway.config" . | fromJson -}}
{{- range $name, $section := $config }}
[{{ include "leeway.tomlKey" $name }}]
{{- range $key, $value := $section }}
{{- if not (kindIs "invalid" $value) }}
{{ include "leeway.tomlKey" $key }} = {{ include "leeway.tomlValue" $value }}
{{- end }}
{{- end }}
{{ end }}
{{- end -}}

{{/* The settings of the chart, and those of the user, as JSON. */}}
{{- define "leeway.config" -}}
{{- $values := .Values -}}
{{- range $key, $value := (dict "http.listen" "service.port" "admin.listen" "admin.exposed" "repository.path" "models" "repository.cache" "models.objectStorage" "repository.cache_mb" "models.objectStorage.cacheMb" "state.url" "state" "state.password_file" "state.postgres.passwordSecret") -}}
{{- $parts := splitList "." $key -}}
{{- if hasKey (default dict (get $values.config (first $parts))) (last $parts) -}}
{{- fail (printf "config.%s is written by the chart; set %s instead" $key $value) -}}
{{- end -}}
{{- end -}}
{{- $repository := dict "path" "/srv/models" -}}
{{- if eq $values.models.from "objectStorage" -}}
{{- $repository = dict "path" $values.models.objectStorage.url "cache" "/var/cache/leeway" "cache_mb" $values.models.objectStorage.cacheMb -}}
{{- end -}}
{{- $state := dict "url" "sqlite:/var/lib/leeway/leeway.db" -}}
{{- if eq $values.state.kind "postgres" -}}
{{- $state = include "leeway.postgres" . | fromJson -}}
{{- end -}}
{{- $admin := dict "listen" (ternary ":8081" "127.0.0.1:8081" $values.admin.exposed) -}}
{{- $chart := dict "http" (dict "listen" ":8080") "admin" $admin "repository" $repository "state" $state "log" (dict "format" "json") -}}
{{- mergeOverwrite $chart (deepCopy $values.config) | toJson -}}
{{- end -}}

{{- define "leeway.postgres" -}}
{{- with .Values.state.postgres -}}
{{- $parameters := ternary (printf "?%s" .parameters) "" (ne .parameters "") -}}
{{- $url := printf "postgres://%s@%s:%d/%s%s" .user .host (int .port) .database $parameters -}}
{{- dict "url" $url "password_file" "/etc/leeway/state/password" | toJson -}}
{{- end -}}
{{- end -}}

{{- define "leeway.tomlKey" -}}
{{- if regexMatch "^[A-Za-z0-9_-]+$" . }}{{ . }}{{ else }}{{ toJson . }}{{ end -}}
{{- end -}}

{{/* A value in one line. Texts, numbers and booleans of JSON are those of TOML. */}}
{{- define "leeway.tomlValue" -}}
{{- if kindIs "map" . -}}
{ {{- range $index, $key := keys . | sortAlpha }}{{ if $index }},{{ end }} {{ include "leeway.tomlKey" $key }} = {{ include "leeway.tomlValue" (get $ $key) }}{{ end }} }
{{- else if kindIs "slice" . -}}
[{{ range $index, $value := . }}{{ if $index }}, {{ end }}{{ include "leeway.tomlValue" $value }}{{ end }}]
{{- else -}}
{{ toJson . }}
{{- end -}}
{{- end -}}
