{{- define "recast.labels" -}}
app.kubernetes.io/name: recast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "recast.selector" -}}
app.kubernetes.io/name: recast
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- /* Objects without a namespace carry the release's name and namespace, so that two releases do not meet. */ -}}
{{- define "recast.clusterName" -}}
{{ printf "%s-%s" .Release.Namespace .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- /* Exactly what operator/recast_operator/adapters does, and nothing else. */ -}}
{{- define "recast.operatorRules" -}}
# Models and versions: read; their metadata: finalizers and owner references, never a spec.
- apiGroups: [recast.dev]
  resources: [foundationmodels, expertmodels, modelversions]
  verbs: [get, list, watch, patch]
- apiGroups: [recast.dev]
  resources: [foundationmodels/status, expertmodels/status, modelversions/status]
  verbs: [update]
# Owner references of children block their owner's deletion; the apiserver asks for this where it enforces that.
- apiGroups: [recast.dev]
  resources: [foundationmodels/finalizers, expertmodels/finalizers]
  verbs: [update]
# Training: one Job and one headless Service an attempt.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Serving: one Deployment a revision or lineage, and their Services.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments/scale]
  verbs: [patch]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
# Why a pod ended, and whether it is ready.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
