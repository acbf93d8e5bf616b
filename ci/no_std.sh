#!/usr/bin/env bash
# The library crates without std: each builds alone, and a #![no_std] program
# that links them all runs.
set -euo pipefail
cd "$(dirname "$0")/.."
for crate in platform iova pgtable flushq dma smmu; do
    cargo check --quiet -p "dmabench-$crate" --no-default-features
done
cargo run --quiet --release --manifest-path ci/no_std/Cargo.toml
