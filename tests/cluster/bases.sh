#!/usr/bin/env bash
# Makes what deploy/images needs where no registry can be reached: bases.sh FOLDER
#
# distroless.tar   the files of gcr.io/distroless/cc-debian12:nonroot, of Debian's own packages
# servers.tar      the image of deploy/images/servers.Dockerfile, really built, on Debian with Node from npm in place of node:24-bookworm-slim
#
# Root, buildah and mmdebstrap; some hundred megabytes and some minutes, once.
set -euo pipefail

out=$1
root=$(cd "$(dirname "$0")/../.." && pwd)
mirror=${PORTCULLIS_TEST_DEBIAN:-http://deb.debian.org/debian}
node=24.21.0
arch=$(dpkg --print-architecture | sed s/amd64/x64/)
list="deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main"
work=$(mktemp -d "${TMPDIR:-/tmp}/portcullis-images.XXXXXX")
store=(--root "$work/store" --runroot "$work/run")
clean() {
  buildah "${store[@]}" rm --all >/dev/null 2>&1 || true
  umount "$work/store/overlay" 2>/dev/null || true
  rm -rf "$work"
}
trap clean EXIT
renice -n 10 -p $$ >/dev/null
mkdir -p "$out"

# Unpacked and not configured, since it has no shell; certificates and users are what the packages' scripts would have made of them.
mmdebstrap --quiet --variant=extract --include=libc6,libgcc-s1,libstdc++6,ca-certificates,tzdata \
  --customize-hook='mkdir -p "$1/etc/ssl/certs" && cat "$1"/usr/share/ca-certificates/mozilla/*.crt >"$1/etc/ssl/certs/ca-certificates.crt"' \
  --customize-hook='printf "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n" >"$1/etc/passwd"' \
  --customize-hook='printf "root:x:0:\nnonroot:x:65532:\n" >"$1/etc/group"' \
  --customize-hook='rm -rf "$1"/bin/*sh "$1"/usr/share/{doc,man,locale} "$1"/var/lib/apt/lists/*' \
  bookworm "$out/distroless.tar" "$list"
# npm's own package for this machine: its script would have to run otherwise.
mmdebstrap --quiet --variant=minbase --include=ca-certificates \
  --customize-hook="npm install --prefix \"\$1/opt/node\" --no-audit --no-fund --ignore-scripts node-linux-$arch@$node npm@11" \
  --customize-hook="ln -s /opt/node/node_modules/node-linux-$arch/bin/node \"\$1/usr/local/bin/node\"" \
  --customize-hook='for p in npm npx; do ln -s "/opt/node/node_modules/npm/bin/$p-cli.js" "$1/usr/local/bin/$p"; done' \
  bookworm "$work/node.tar" "$list"

container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" add --quiet "$container" "$work/node.tar" / >/dev/null
buildah "${store[@]}" config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah "${store[@]}" commit --quiet --rm "$container" docker.io/library/node:24-bookworm-slim >/dev/null
rm "$work/node.tar"
# Where this machine trusts authorities of its own, so does the build; nothing of it is in the image.
ca=/etc/ssl/certs/ca-certificates.crt
printf '[global]\ncert = /machine-ca.crt\n' >"$work/pip.conf"
buildah "${store[@]}" bud --quiet --format docker --pull-never --network host --isolation chroot \
  -v "$ca:/machine-ca.crt:ro" -v "$work/pip.conf:/etc/pip.conf:ro" \
  -f "$root/deploy/images/servers.Dockerfile" -t portcullis-servers "$root/deploy/images" >/dev/null
buildah "${store[@]}" push --quiet portcullis-servers "docker-archive:$out/servers.tar:localhost/portcullis-servers:latest"
