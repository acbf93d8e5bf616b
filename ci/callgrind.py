#!/usr/bin/env python3
"""Instruction counts of the callgrind benches against a committed baseline.

    ci/callgrind.py check BASELINE RESULT...
    ci/callgrind.py accept BASELINE REASON RESULT...

RESULT is what a bench prints with --output-format=json. A bench that grew by
more than 3 % and more than 300 instructions fails, and so does one that is gone:
a baseline is changed by `ci/baseline.sh --accept "why"` only, and its reason is
kept in the file. The 300: where the tree lies moves the heap and with it counts
by up to 200, which is 4 % of the one bench that runs a single call.

Another compiler makes other code, and a processor without AVX2 runs other code.
Then nothing is comparable: the table is printed, a warning says what differs,
and nothing fails until a baseline of that compiler is accepted. A bench that is
not in the baseline yet is printed too, and gated from the next baseline on.
"""

import json
import os
import platform
import subprocess
import sys

GROWTH_PERCENT = 3
GROWTH_INSTRUCTIONS = 300
# A breakdown's last step does the work of the whole outside of a domain: what it
# lacks is the layer's own, at most this part of the whole; it never needs more.
BUILT, WHOLE, OWN_PERCENT = ".built_4_invalidation.", ".whole.", 25
# What must be the same for counts to be comparable, and what is only noted.
SAME = ["rustc", "cpu", "profile"]
NOTED = ["valgrind"]


def surroundings():
    """What the counts depend on besides the code."""
    def first_line(*command):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]

    def flags():
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next((line.split() for line in info if line.startswith("flags")), [])

    avx2 = " avx2" if "avx2" in flags() else ""
    return {
        "rustc": first_line("rustc", "--version"),
        "cpu": platform.machine() + avx2,
        "profile": "bench, lto={}, codegen-units={}".format(
            os.environ.get("CARGO_PROFILE_BENCH_LTO", "fat"),
            os.environ.get("CARGO_PROFILE_BENCH_CODEGEN_UNITS", "1"),
        ),
        "valgrind": first_line("valgrind", "--version"),
    }


def instructions(result):
    """The count of one bench: the sum of its callgrind profiles."""
    def numbers(value):
        for kind in ("Left", "Both"):
            if kind in value:
                found = value[kind]
                found = found[0] if isinstance(found, list) else found
                return found["Int"]
        raise ValueError(f"no new count in {value}")

    for profile in result["profiles"]:
        total = profile["summaries"]["total"]["summary"]
        if "Callgrind" in total:
            return numbers(total["Callgrind"]["Ir"]["metrics"])
    raise ValueError(f"no callgrind profile in {result['module_path']}")


def read_results(files):
    counts = {}
    for file in files:
        with open(file, encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("{"):
                    result = json.loads(line)
                    name = result["module_path"].replace("::", ".")
                    if result.get("id"):
                        name += "." + result["id"]
                    if name in counts:
                        raise ValueError(f"two benches are called {name}")
                    counts[name] = instructions(result)
    if not counts:
        raise ValueError("no results; the benches must run with --output-format=json")
    return counts


def read_baseline(path):
    """Its header, and its counts by name."""
    header, counts = {}, {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            line = line.rstrip("\n")
            if not line or line.startswith("#"):
                continue
            if ": " in line:
                key, value = line.split(": ", 1)
                header[key] = value
            else:
                name, count = line.split()
                counts[name] = int(count)
    for key in SAME + ["reason"]:
        if not header.get(key):
            raise ValueError(f"{path}: no line '{key}: ...'")
    return header, counts


def compare(header, baseline, here, counts):
    """Lines to print, and whether the gate is shut."""
    lines, bad = [], []
    differs = [key for key in SAME if header[key] != here[key]]
    for name in sorted(baseline.keys() | counts.keys()):
        old, new = baseline.get(name), counts.get(name)
        if old is None:
            lines.append(f"  {'new':>8}  {'-':>12} {new:>12}  {name}")
        elif new is None:
            bad.append(f"  {'gone':>8}  {old:>12} {'-':>12}  {name}")
        else:
            change = new / old - 1
            line = f"  {change:>+8.2%}  {old:>12} {new:>12}  {name}"
            if new * 100 > old * (100 + GROWTH_PERCENT) and new > old + GROWTH_INSTRUCTIONS:
                bad.append(line)
            elif abs(change) >= 0.0005 or differs:
                lines.append(line)
    text = []
    if lines or bad:
        text.append(f"  {'change':>8}  {'baseline':>12} {'now':>12}  instructions of")
        text += lines
    same = len(baseline) - sum(1 for line in lines if " new " not in line) - len(bad)
    text.append(f"callgrind gate: {len(counts)} benches, {max(same, 0)} as in the baseline")
    for key in NOTED:
        if header.get(key) != here[key]:
            text.append(f"note: baseline with {header.get(key)}, here {here[key]}")
    if differs:
        for key in differs:
            text.append(f"warning: baseline of {key} '{header[key]}', here '{here[key]}'")
        text.append("warning: not comparable, so NOT gated; accept a baseline of this machine:")
        text.append('  ci/baseline.sh --accept "why"')
        return text, False
    if bad:
        text.append(f"FAILED: grown by more than {GROWTH_PERCENT} %, or gone:")
        text += bad
        text.append('make it smaller, or say why it must be so: ci/baseline.sh --accept "why"')
    return text, bool(bad)


def breakdowns(counts):
    """Lines on breakdowns whose parts do not add up to the whole."""
    wrong = []
    for name, built in sorted(counts.items()):
        whole = counts.get(name.replace(BUILT, WHOLE))
        if BUILT in name and whole is not None:
            own = whole - built
            if own < 0 or own * 100 > whole * OWN_PERCENT:
                wrong.append(f"FAILED: {name} is {built} of {whole} instructions; the parts must")
                wrong.append(f"  be {100 - OWN_PERCENT} to 100 % of the whole")
    return wrong


def write_baseline(path, reason, here, counts):
    reason = " ".join(reason.split())
    if len(reason) < 10:
        raise ValueError("give a reason that somebody else understands")
    with open(path, "w", encoding="utf-8") as file:
        file.write("# Instructions of each callgrind bench, whole run. Written by ci/baseline.sh,\n")
        file.write("# checked by ci/bench.sh; benches/README.md says how.\n")
        for key, value in {**here, "reason": reason}.items():
            file.write(f"{key}: {value}\n")
        file.write("\n")
        for name in sorted(counts):
            file.write(f"{name} {counts[name]}\n")


def main(arguments):
    try:
        match arguments:
            case ["check", path, *files] if files:
                header, baseline = read_baseline(path)
                counts = read_results(files)
                text, shut = compare(header, baseline, surroundings(), counts)
                wrong = breakdowns(counts)
                print("\n".join(text + wrong))
                return 1 if shut or wrong else 0
            case ["accept", path, reason, *files] if files:
                counts = read_results(files)
                write_baseline(path, reason, surroundings(), counts)
                print(f"{path}: {len(counts)} benches")
                return 0
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except (ValueError, KeyError, OSError) as error:
        print(f"ci/callgrind.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
