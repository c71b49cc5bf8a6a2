{{- define "podway.labels" -}}
app.kubernetes.io/name: podway
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "podway.reportNamespace" -}}
{{- $namespace := .Values.reportNamespace | default .Release.Namespace -}}
{{- if eq $namespace "kube-system" -}}
{{- fail "reports are Leases, and who may write those of kube-system can stop its controllers: install into a namespace of Podway's own, or name one with reportNamespace" -}}
{{- end -}}
{{- $namespace -}}
{{- end }}

{{- define "podway.metricsAddress" -}}
{{- $port := int .Values.metrics.port -}}
{{- if eq .Values.metrics.listen "loopback" -}}
127.0.0.1:{{ $port }}
{{- else if eq .Values.metrics.listen "node" -}}
$(HOST_IP):{{ $port }}
{{- else if eq .Values.metrics.listen "all" -}}
0.0.0.0:{{ $port }}
{{- end -}}
{{- end }}
