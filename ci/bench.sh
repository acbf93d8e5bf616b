#!/usr/bin/env bash
# Every bench once: criterion's in test mode, the callgrind ones for real.
# Answers are checked inside. A smoke test, so without link-time optimisation:
# figures come from `cargo bench` (benches/README.md).
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 CARGO_PROFILE_BENCH_DEBUG=line-tables-only
for bench in benches/benches/*.rs; do
    name=$(basename "$bench" .rs)
    case $name in
    *_ir) cargo bench --quiet -p dmabench-benches --bench "$name" ;;
    *) cargo bench --quiet -p dmabench-benches --bench "$name" -- --test ;;
    esac
done
