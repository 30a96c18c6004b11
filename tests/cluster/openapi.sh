#!/usr/bin/env bash
# Writes the one generated file that the source package lacks: openapi.sh TOOL, in the tree of Kubernetes with Go's environment set.
# Without it kube-apiserver does not compile (undefined: openapi.GetOpenAPIDefinitions).
set -euo pipefail

tool=$1
go build -o "$tool" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
# The packages that ask for it by a tag, each as it is imported.
inputs=$(grep -rlE --include='*.go' '\+k8s:openapi-gen=' staging/src pkg cmd |
  grep -vE '_test\.go$|/zz_generated|^staging/src/k8s\.io/(code-generator|sample-apiserver)/' |
  xargs -n1 dirname | sed -e 's,^staging/src/,k8s.io/kubernetes/vendor/,' -e 's,^\(pkg\|cmd\)/,k8s.io/kubernetes/\1/,' |
  sort -u | paste -sd,)
"$tool" -v 0 --input-dirs "$inputs" --output-package k8s.io/kubernetes/pkg/generated/openapi \
  --output-file-base zz_generated.openapi --go-header-file /dev/null --output-base "$GOPATH/src" \
  --report-filename /dev/null
