# Sourced by bench.sh and baseline.sh: the one profile in which CI builds the
# benches and counts their instructions. No link-time optimisation, which would
# take most of CI's time; one unit per crate, so that what is inlined does not
# depend on how a crate happens to be cut up.
export CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=1 CARGO_PROFILE_BENCH_DEBUG=line-tables-only
