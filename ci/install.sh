#!/usr/bin/env bash
# What a fresh machine lacks: valgrind, and the runner of the callgrind benches
# (of the same version as the library in Cargo.lock).
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v valgrind >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq valgrind >/dev/null
fi
version=$(awk '/^name = "iai-callgrind"$/ { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)
if [ "$(iai-callgrind-runner --version 2>/dev/null | grep -o '[0-9.]*$' || true)" != "$version" ]; then
    cargo install --quiet --locked iai-callgrind-runner --version "$version"
fi
