#!/usr/bin/env bash
# The README's run command, on fewer requests, into a folder of its own; the
# report must be whole, and its page is looked at in a browser.
set -euo pipefail
cd "$(dirname "$0")/.."
grep -qx 'cargo run --release' README.md || { echo "README.md names no 'cargo run --release'"; exit 1; }
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
cargo run --quiet --release -- --requests 2000 --out "$out/report"
python3 - "$out/report/report.json" <<'PY'
import json, sys
report = json.load(open(sys.argv[1]))
results = report["results"]
assert results, "no results"
modes = {r["mode"] for r in results}
assert {"passthrough", "strict", "lazy"} <= modes, modes
for r in results:
    if r["mode"] == "strict":
        assert r["stale_device_accesses"] == 0, r["workload"]
    if r["mode"] == "passthrough":
        assert r["stale_device_accesses"] is None, r["workload"]
print(f"{len(results)} results, modes {sorted(modes)}")
PY
grep -q "<svg" "$out/report/report.html"
python3 ci/page_check.py "$out/report/report.html" target/page
