#!/usr/bin/env bash
# Every bench once: criterion's in test mode, the callgrind ones for real, with
# their instruction counts held against the committed baseline. Answers are
# checked inside. Without link-time optimisation: figures to quote come from
# `cargo bench` (benches/README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/profile.sh
for bench in benches/benches/*.rs; do
    name=$(basename "$bench" .rs)
    case $name in
    *_ir) ;;
    *) cargo bench --quiet -p dmabench-benches --bench "$name" -- --test ;;
    esac
done
ci/baseline.sh
