#!/usr/bin/env bash
# What a fresh machine lacks: valgrind, Chromium (which looks at the report's
# page), QEMU for the tests against its SMMUv3, and the runner of the callgrind
# benches (of the same version as the library in Cargo.lock).
set -euo pipefail
cd "$(dirname "$0")/.."
missing=()
command -v valgrind >/dev/null || missing+=(valgrind)
command -v chromium >/dev/null || missing+=(chromium fonts-dejavu-core)
command -v qemu-system-aarch64 >/dev/null || missing+=(qemu-system-arm)
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
version=$(awk '/^name = "iai-callgrind"$/ { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)
if [ "$(iai-callgrind-runner --version 2>/dev/null | grep -o '[0-9.]*$' || true)" != "$version" ]; then
    cargo install --quiet --locked iai-callgrind-runner --version "$version"
fi
