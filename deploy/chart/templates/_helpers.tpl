{{- define "sharedlb.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Names of objects begin with it. What is appended fits into 63 characters. */}}
{{- define "sharedlb.fullname" -}}
{{- $name := include "sharedlb.name" . -}}
{{- $release := contains $name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name $name) -}}
{{- default $release .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sharedlb.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride -}}
{{- end -}}

{{- define "sharedlb.serviceAccountName" -}}
{{- default (.Values.serviceAccount.create | ternary (include "sharedlb.fullname" .) "default") .Values.serviceAccount.name -}}
{{- end -}}

{{/*
A Deployment's selector cannot change, so it is the one that installations by
`kubectl apply -k deploy` have. One controller serves a cluster, so the name alone
is enough.
*/}}
{{- define "sharedlb.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sharedlb.name" . }}
{{- end -}}

{{/* Helm itself adds app.kubernetes.io/managed-by. */}}
{{- define "sharedlb.labels" -}}
{{ include "sharedlb.selectorLabels" . }}
app.kubernetes.io/instance: {{ .Release.Name | toString | toYaml }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sharedlb.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The subjects of every binding. */}}
{{- define "sharedlb.subjects" -}}
- kind: ServiceAccount
  name: {{ include "sharedlb.serviceAccountName" . }}
  namespace: {{ include "sharedlb.namespace" . }}
{{- end -}}
