#!/usr/bin/env bash
# Every bench once: criterion's in test mode, the callgrind ones for real (they
# count instructions, so one run is exact). Answers are checked inside.
set -euo pipefail
cd "$(dirname "$0")/.."
for bench in benches/benches/*.rs; do
    name=$(basename "$bench" .rs)
    case $name in
    *_ir) cargo bench --quiet -p dmabench-benches --bench "$name" ;;
    *) cargo bench --quiet -p dmabench-benches --bench "$name" -- --test ;;
    esac
done
