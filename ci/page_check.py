#!/usr/bin/env python3
"""Looks at a report page in headless Chromium: at phone and desktop width, light and dark.

    ci/page_check.py PAGE OUT_DIR

Fails where the page is wider than its window, a plot is missing or too small, texts of a plot touch
each other or leave it, a plot has no axis name, or a screenshot is empty. The screenshots stay in
OUT_DIR for people to look at.
"""

import html
import json
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

WIDTHS = (380, 1400)
PLOTS_OF_ALL = ("tradeoff", "cpu", "hardware", "commands")
PLOTS_OF_ONE = ("exposure", "cost", "commands", "map", "unmap", "pages")

PROBE = """
<script>
const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
const seen = {
  window: innerWidth, page: document.documentElement.scrollWidth,
  workloads: document.querySelectorAll('section.workload').length,
  plots: [...document.querySelectorAll('figure')].map(f => ({
    id: f.id, svg: box(f.querySelector('svg')), caption: f.querySelector('figcaption').innerText,
    texts: [...f.querySelectorAll('svg text')].map(t => [t.textContent.trim(), ...box(t)]),
    marks: f.querySelectorAll('svg circle, svg rect, svg polyline, svg line').length,
  })),
};
parent.postMessage(JSON.stringify(seen), '*');
</script>
"""

# A window of Chromium has a smallest width; a frame in it has none.
FRAME = """<!DOCTYPE html><pre id="seen"></pre>
<script>onmessage = e => document.getElementById('seen').textContent = e.data;</script>
<iframe src="page.html" style="border: 0; width: {width}px; height: 1000px"></iframe>
"""


def chromium(*arguments):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("no Chromium: apt-get install chromium")
    common = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    done = subprocess.run([browser, *common, *arguments], capture_output=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"Chromium failed: {done.stderr.decode()[-2000:]}")
    return done.stdout.decode()


def layout(page, width):
    """What the browser made of the page at that width."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
        frame = folder / "frame.html"
        frame.write_text(FRAME.format(width=width))
        dom = chromium("--window-size=1600,1200", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
    return json.loads(html.unescape(re.search(r'<pre id="seen">(.+?)</pre>', dom, re.S)[1]))


def touching(texts, slack=1.0):
    """Pairs of texts whose boxes overlap by more than the slack."""
    for index, (one, *a) in enumerate(texts):
        for other, *b in texts[:index]:
            across = min(a[2], b[2]) - max(a[0], b[0])
            down = min(a[3], b[3]) - max(a[1], b[1])
            # Boxes are as high as the font's line, letters are not.
            if across > slack and down > slack + 3:
                yield one, other


def faults(seen, width):
    if seen["window"] != width:
        yield f"the window is {seen['window']} wide, not {width}"
    if seen["page"] > seen["window"]:
        yield f"the page is {seen['page']} wide in a window of {seen['window']}"
    wanted = {f"plot-{name}" for name in PLOTS_OF_ALL}
    wanted |= {f"plot-{i}-{name}" for i in range(seen["workloads"]) for name in PLOTS_OF_ONE}
    missing = wanted - {plot["id"] for plot in seen["plots"]}
    if missing:
        yield f"no {', '.join(sorted(missing))}"
    for plot in seen["plots"]:
        left, top, right, bottom = plot["svg"]
        if right - left < 300 or bottom - top < 70:
            yield f"{plot['id']} is only {right - left:.0f} x {bottom - top:.0f}"
        if right > width + 0.5 or left < 0:
            yield f"{plot['id']} leaves the window"
        if plot["marks"] < 2:
            yield f"{plot['id']} shows nothing"
        if len(plot["caption"]) < 20:
            yield f"{plot['id']} has no caption"
        if not any(re.search("ns|ms|MiB|time|window|pages|calls|request", t[0]) for t in plot["texts"]):
            yield f"{plot['id']} has no axis with a unit"
        for one, other in touching(plot["texts"]):
            yield f"{plot['id']}: '{one}' and '{other}' overlap"
        for text, *box in plot["texts"]:
            if box[0] < left - 1 or box[2] > right + 1 or box[1] < top - 1 or box[3] > bottom + 2:
                yield f"{plot['id']}: '{text}' leaves the plot"


def png_size(path):
    data = path.read_bytes()
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        sys.exit(f"{path} is no PNG")
    return (*struct.unpack(">II", data[16:24]), len(data))


def main():
    page_path, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    page = page_path.read_text()
    # The check must see: the same page with two texts in one place.
    twice = re.sub(r"(<text [^>]*>\n[^<]+\n</text>)", r"\1\1", page, count=1)
    assert twice != page and any("overlap" in f for f in faults(layout(twice, 380), 380)), "blind"
    bad = []
    for width in WIDTHS:
        seen = layout(page, width)
        bad += [f"at {width} px: {fault}" for fault in faults(seen, width)]
        for scheme, setting in (("light", 1), ("dark", 0)):
            shot = out / f"report-{width}-{scheme}.png"
            chromium(f"--window-size={width},4000", f"--screenshot={shot}",
                     f"--blink-settings=preferredColorScheme={setting}", page_path.as_uri())
            across, down, size = png_size(shot)
            if (across, down) != (width, 4000) or size < 50_000:
                bad.append(f"{shot.name} is {across} x {down}, {size} bytes")
        print(f"{width} px: {len(seen['plots'])} plots of {seen['workloads']} workloads")
    for fault in bad:
        print(fault)
    sys.exit(1 if bad else 0)


main()
