//go:build tools

// Package tools keeps Helm in this module, so that its libraries and ours are the same versions and compile once.
package tools

import _ "helm.sh/helm/v4/cmd/helm"
