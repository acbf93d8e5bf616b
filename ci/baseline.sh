#!/usr/bin/env bash
# The callgrind gate. Runs the instruction benches and
#   ci/baseline.sh                  compares with benches/baseline/callgrind.txt:
#                                   growth over 3 % fails, with a table;
#   ci/baseline.sh --accept "why"   writes that file anew, with the reason in it.
set -euo pipefail
cd "$(dirname "$0")/.."
. ci/profile.sh
baseline=benches/baseline/callgrind.txt
case ${1-} in
"") python3 ci/callgrind_test.py 2>/dev/null || { python3 ci/callgrind_test.py; exit 1; } ;;
--accept) [ -n "${2-}" ] || { echo "say why: ci/baseline.sh --accept \"why\"" >&2; exit 2; } ;;
*) sed -n '2,6s/^# \?//p' "$0" >&2; exit 2 ;;
esac
found=target/callgrind
rm -rf "$found"
mkdir -p "$found"
for bench in benches/benches/*_ir.rs; do
    name=$(basename "$bench" .rs)
    cargo bench --quiet -p dmabench-benches --bench "$name" -- --output-format=json >"$found/$name.json"
done
if [ "${1-}" = --accept ]; then
    python3 ci/callgrind.py accept "$baseline" "$2" "$found"/*.json
else
    python3 ci/callgrind.py check "$baseline" "$found"/*.json
fi
