#!/usr/bin/env bash
# The loom models of every library crate: all interleavings up to each model's
# bound, and the variants that must fail.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom
for crate in platform iova pgtable flushq dma smmu; do
    if grep -rqs "cfg(all(test, loom))" "$crate/src"; then
        cargo test --quiet --release -p "dmabench-$crate" --lib loom
    fi
done
