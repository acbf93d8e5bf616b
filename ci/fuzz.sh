#!/usr/bin/env bash
# A few seconds of each fuzz target. Built with the flags `cargo fuzz` uses, so
# that CI need not install it.
set -euo pipefail
cd "$(dirname "$0")/../fuzz"
runs=${FUZZ_RUNS:-20000}
export RUSTFLAGS="--cfg fuzzing -Zsanitizer=address -Cpasses=sancov-module \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
-Ccodegen-units=1 -Cdebug-assertions"
target=x86_64-unknown-linux-gnu
cargo +nightly build --quiet --release --target "$target" --bins
for source in fuzz_targets/*.rs; do
    name=$(basename "$source" .rs)
    # Sequences of operations. By itself libFuzzer begins with 4 bytes and is slow to
    # make more of them: a page table whose long unmaps leave an entry behind was
    # found after a second with these, and not in 40 seconds without.
    case $name in
        iova | pgtable_ops) long=(-len_control=0 -max_len=512) ;;
        *) long=() ;;
    esac
    echo "fuzz $name: $runs runs"
    "target/$target/release/$name" -runs="$runs" -max_total_time=20 -seed=1 "${long[@]}" \
        -print_final_stats=1 2>&1 |
        grep -E 'stat::number_of_executed_units|ERROR|panicked' || { echo "fuzz $name failed"; exit 1; }
done
