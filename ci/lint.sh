#!/usr/bin/env bash
# Clippy and rustdoc, warnings as errors.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy --quiet --workspace --all-targets -- -D warnings
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps
