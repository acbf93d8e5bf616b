#!/usr/bin/env bash
# The README's test command: unit, property, integration and doc tests. With CI
# set, a test that needs QEMU and does not find it fails instead of being skipped.
set -euo pipefail
export CI=true
cd "$(dirname "$0")/.."
command=$(sed -n 's/^\(cargo test .*\)$/\1/p' README.md | head -n 1)
[ -n "$command" ] || { echo "README.md names no 'cargo test' command"; exit 1; }
echo "+ $command"
$command --no-fail-fast
