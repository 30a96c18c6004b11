#!/usr/bin/env bash
# Makes the programs of a small real Kubernetes cluster: build.sh FOLDER
#
# The control plane and the kubelet are built from Debian's source package with Debian's Go; etcd, containerd, runc and the
# network plugins are Debian's own. Everything is unpacked into FOLDER: nothing is installed, no service is started, no root
# is needed. Debian 12 on any machine that has apt, dpkg and xz. About three minutes on two idle cores, at low priority.
#
# 1.20.2 is long out of support and has known holes: for tests on loopback, and nothing else.
set -euo pipefail

out=$1
here=$(cd "$(dirname "$0")" && pwd)
mirror=${PORTCULLIS_TEST_DEBIAN:-http://deb.debian.org/debian}
arch=$(dpkg --print-architecture)
source_version=1.20.5+really1.20.2-1.1+deb12u1
packages=(
  golang-1.19-go=1.19.8-2
  golang-1.19-src=1.19.8-2
  etcd-server=3.4.23-4+b4
  containerd=1.6.20~ds1-1+deb12u3
  runc=1.1.5+ds1-1+deb12u1
  containernetworking-plugins=1.1.1+ds1-3+b5
  golang-github-modern-go-reflect2-dev=1.0.2-2
  busybox-static=1:1.35.0-4+deb12u1+b1
)
programs=(kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy)

work=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-cluster.XXXXXX")
trap 'rm -rf "$work"' EXIT
renice -n 10 -p $$ >/dev/null

# Lists of our own, so the machine's are neither needed nor changed. Debian's key vouches for what comes.
mkdir -p "$work"/{lists/partial,cache/archives/partial,debs,source,root}
cat >"$work/sources.list" <<LIST
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main
deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main
LIST
apt() {
  local options=(
    -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists"
    -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3
  )
  apt-get "${options[@]}" "$@"
}
apt update
(cd "$work/debs" && apt download "${packages[@]}")
(cd "$work/source" && apt source --download-only "kubernetes=$source_version")
for deb in "$work"/debs/*.deb; do
  dpkg -x "$deb" "$work/root"
done

# In a path of GOPATH, because as a module it asks for updates to go.mod.
export GOROOT=$work/root/usr/lib/go-1.19 GOPATH=$work/go GOCACHE=$work/gocache GO111MODULE=off CGO_ENABLED=0 GOFLAGS=-p=2
export PATH=$GOROOT/bin:$PATH
tree=$GOPATH/src/k8s.io/kubernetes
mkdir -p "$tree" "$out"
tar -xzf "$work"/source/kubernetes_*.orig.tar.gz -C "$tree" --strip-components=1
cd "$tree"
# The vendored one knows how maps lay before Go 1.18, and the API server ends with a fault at the first custom resource.
rm -rf vendor/github.com/modern-go/reflect2
cp -r "$work/root/usr/share/gocode/src/github.com/modern-go/reflect2" vendor/github.com/modern-go/
"$here/openapi.sh" "$work/openapi-gen"

version=k8s.io/kubernetes/vendor/k8s.io/component-base/version
flags="-s -w -X $version.gitVersion=v1.20.2 -X $version.gitMajor=1 -X $version.gitMinor=20"
# One at a time: two linkers side by side take more memory than a small machine has.
for program in "${programs[@]}"; do
  go build -ldflags "$flags" -o "$out/$program" "./cmd/$program"
done
# What every pod's first container runs.
go build -ldflags '-s -w' -o "$out/pause" "$here/pause.go"
for program in usr/bin/etcd usr/bin/containerd usr/bin/containerd-shim-runc-v2 usr/bin/ctr usr/sbin/runc bin/busybox; do
  install -m 755 "$work/root/$program" "$out/"
done
mkdir -p "$out/cni"
for plugin in bridge host-local loopback portmap; do
  install -m 755 "$work/root/usr/lib/cni/$plugin" "$out/cni/"
done
echo "$arch" >"$out/architecture"
