#!/usr/bin/env bash
# Build an image and check that it starts: components/image.sh steps|train TAG
#
# BUILDER     docker, podman or buildah; default: the first that works
# BASE_IMAGE, TRAIN_BASE_IMAGE, TORCH, TORCH_INDEX_URL, LOCK, PIP_*   as in components/Containerfile
# BUILD_FLAGS further flags for the builder
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1 tag=$2

works() { command -v "$1" >/dev/null && { [ "$1" != docker ] || docker info >/dev/null 2>&1; }; }
for tool in ${BUILDER:-docker podman buildah}; do
    works "$tool" && break
    tool=
done
[ -n "$tool" ] || { echo "no working ${BUILDER:-docker, podman or buildah} found: install one" >&2; exit 1; }

revision=$(git rev-parse HEAD)
[ -z "$(git status --porcelain)" ] || revision+=-dirty
arguments=(--build-arg "SOURCE_REVISION=$revision")
pass() { [ -z "${!1:-}" ] || arguments+=(--build-arg "$1=${2:-${!1}}"); }
for name in BASE_IMAGE TRAIN_BASE_IMAGE LOCK PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do pass "$name"; done
if [ "$target" = steps ]; then
    pass TORCH
    # Set but empty is pip's own index.
    [ -z "${TORCH_INDEX_URL+set}" ] || arguments+=(--build-arg "TORCH_INDEX_URL=$TORCH_INDEX_URL")
fi
# Local files are mounted into the build; docker cannot do that.
mount_file() {  # mount_file VARIABLE PATH-INSIDE
    [ -e "${!1:-}" ] || { pass "$1"; return; }
    [ "$tool" != docker ] || { echo "$1=${!1}: docker cannot use a local path" >&2; exit 1; }
    arguments+=(--volume "${!1}:$2:ro")
    pass "$1" "$2"
}
mount_file PIP_CERT /mnt/certificate
mount_file PIP_FIND_LINKS /mnt/wheels

case $tool in buildah) command=(buildah bud --layers) ;; *) command=("$tool" build) ;; esac
read -ra flags <<<"${BUILD_FLAGS:-}"
"${command[@]}" "${flags[@]}" "${arguments[@]}" --target "$target" -t "$tag" -f components/Containerfile .
if [ "$tool" != buildah ]; then
    "$tool" run --rm --read-only --tmpfs /tmp "$tag" python -m training.train --help >/dev/null
fi
echo "image $tag: $target of $revision"
