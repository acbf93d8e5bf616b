#!/usr/bin/env python3
"""The gate must shut: every rule of callgrind.py with what breaks it."""

import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(__file__))
import callgrind  # noqa: E402

HERE = {"rustc": "rustc 1", "cpu": "x86_64 avx2", "profile": "p", "valgrind": "v"}
HEADER = {**HERE, "reason": "because it was so"}


class Gate(unittest.TestCase):
    def shut(self, baseline, counts, header=HEADER):
        text, shut = callgrind.compare(header, baseline, HERE, counts)
        return shut, "\n".join(text)

    def test_growth_of_three_percent_is_the_limit(self):
        self.assertFalse(self.shut({"a": 100000}, {"a": 103000})[0])
        shut, text = self.shut({"a": 100000, "b": 5}, {"a": 103100, "b": 5})
        self.assertTrue(shut)
        self.assertIn("+3.10%", text)
        self.assertFalse(self.shut({"a": 100000}, {"a": 10})[0])

    def test_the_smallest_benches_may_grow_by_what_the_heap_moves_them(self):
        self.assertFalse(self.shut({"a": 1000}, {"a": 1300})[0])
        self.assertTrue(self.shut({"a": 1000}, {"a": 1301})[0])

    def test_a_bench_that_is_gone_shuts_the_gate_and_a_new_one_does_not(self):
        self.assertTrue(self.shut({"a": 1, "b": 1}, {"a": 1})[0])
        shut, text = self.shut({"a": 1}, {"a": 1, "b": 7})
        self.assertFalse(shut)
        self.assertIn("new", text)

    def test_another_compiler_warns_and_says_so(self):
        for key in callgrind.SAME:
            shut, text = self.shut({"a": 1000}, {"a": 2000}, {**HEADER, key: "other"})
            self.assertFalse(shut)
            self.assertIn("NOT gated", text)
            self.assertIn(key, text)
        shut, text = self.shut({"a": 1000}, {"a": 2000}, {**HEADER, "valgrind": "other"})
        self.assertTrue(shut)

    def test_a_breakdown_must_add_up(self):
        def wrong(whole, built):
            counts = {"m.whole.x": whole, "m.built_4_invalidation.x": built, "m.whole.y": 1}
            return callgrind.breakdowns(counts)

        self.assertEqual(wrong(1000, 1000), [])
        self.assertEqual(wrong(1000, 750), [])
        self.assertTrue(wrong(1000, 749))
        self.assertTrue(wrong(1000, 1001))

    def test_files_read_back_and_need_a_reason(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "baseline")
            callgrind.write_baseline(path, "why\nit is so", HERE, {"m.f.x": 12, "m.f.y": 3})
            header, counts = callgrind.read_baseline(path)
            self.assertEqual(counts, {"m.f.x": 12, "m.f.y": 3})
            self.assertEqual(header, {**HERE, "reason": "why it is so"})
            for reason in ["", "  ", "because"]:
                with self.assertRaises(ValueError):
                    callgrind.write_baseline(path, reason, HERE, counts)
            with open(path, "w", encoding="utf-8") as file:
                file.write("rustc: r\ncpu: c\nprofile: p\nm.f.x 12\n")
            with self.assertRaises(ValueError):
                callgrind.read_baseline(path)

    def test_results_are_those_of_iai_callgrind(self):
        metrics = {"Ir": {"diffs": None, "metrics": {"Left": {"Int": 42}}}}
        line = {
            "module_path": "a_ir::g::f",
            "id": "x",
            "profiles": [{"summaries": {"total": {"summary": {"Callgrind": metrics}}}}],
        }
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "result")
            with open(path, "w", encoding="utf-8") as file:
                file.write("some text\n" + json.dumps(line) + "\n")
            self.assertEqual(callgrind.read_results([path]), {"a_ir.g.f.x": 42})
            # Compared with an older run of the same machine.
            metrics["Ir"]["metrics"] = {"Both": [{"Int": 43}, {"Int": 42}]}
            with open(path, "w", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            self.assertEqual(callgrind.read_results([path]), {"a_ir.g.f.x": 43})
            with self.assertRaises(ValueError):
                callgrind.read_results([path, path])
            with open(path, "w", encoding="utf-8") as file:
                file.write("nothing\n")
            with self.assertRaises(ValueError):
                callgrind.read_results([path])


if __name__ == "__main__":
    unittest.main()
