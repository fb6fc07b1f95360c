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

{{- /* There is no default image: whoever owned its name could push what this cluster then runs. */ -}}
{{- define "recast.operatorImage" -}}
{{- $image := .Values.operator.image -}}
{{- if not $image -}}
{{- fail (printf "operator.image is not set, and there is no default: name the image that you pushed, for example --set operator.image=registry.example.com/recast/operator:%s" .Chart.AppVersion) -}}
{{- end -}}
{{- if not (regexMatch "^(localhost|[^/]*[.:][^/]*)/[^/]" $image) -}}
{{- fail (printf "operator.image %q names no registry, so that a node would pull it from a public one: begin with the registry's host, for example registry.example.com/%s" $image $image) -}}
{{- end -}}
{{- $image -}}
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
# Training: one Job and one headless Service per attempt.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, delete]
# Serving: one Deployment per revision or lineage, and what stands beside them. An update replaces a spec that others
# have brought into a state that no patch of ours makes valid.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, update, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, update, patch, delete]
# Why a pod ended, and whether it is ready.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
