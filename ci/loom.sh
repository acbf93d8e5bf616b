#!/usr/bin/env bash
# The loom models of every library crate: all interleavings up to each model's
# bound, and the variants that must fail. Then shuttle, where loom is too slow.
set -euo pipefail
cd "$(dirname "$0")/.."
export RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom
for crate in platform iova pgtable flushq dma smmu; do
    if grep -rqs "cfg(all(test, loom))" "$crate/src"; then
        cargo test --quiet --release -p "dmabench-$crate" --lib loom
    fi
done

# Eight threads on the whole allocator, random schedules.
export RUSTFLAGS="--cfg shuttle" CARGO_TARGET_DIR=target/shuttle
cargo test --quiet --release -p dmabench-iova --lib shuttle
