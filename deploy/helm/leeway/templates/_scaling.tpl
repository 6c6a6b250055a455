{{- define "leeway.scalingBehavior" -}}
scaleUp:
  # What is refused says that there are too few, and not how many there should be.
  policies:
    - {type: Percent, value: 100, periodSeconds: 60}
scaleDown:
  stabilizationWindowSeconds: {{ .scaleDownSeconds }}
{{- end -}}
